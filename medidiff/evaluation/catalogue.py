"""Every metric of an evaluation: its name, unit, and what it measures, over what, with which data range, from where."""

from __future__ import annotations

from collections.abc import Iterable

from medidiff.evaluation.results import Metric

PEAK = "the data range is the reference's maximum (MR and all else) or the width of the window (CT)"
RANGE = "in percent of the data range"

METRICS: dict[str, Metric] = {
    # with a reference
    "psnr": Metric(
        "PSNR",
        "dB",
        "higher",
        f"10 log10(range^2 / mean squared error) over the voxels of the region; {PEAK}; at most 200 dB (scikit-image's"
        " definition).",
    ),
    "ssim": Metric(
        "SSIM",
        "",
        "higher",
        "Structural similarity, mean over the region: 3-D, Gaussian window of 1.5 voxels, K1 0.01, K2 0.03 (Wang et al."
        f" 2004; scikit-image); slice by slice where an axis is shorter than 11 voxels; {PEAK}.",
    ),
    "ms_ssim": Metric(
        "MS-SSIM",
        "",
        "higher",
        "Multi-scale structural similarity of the whole image, 3-D (Wang, Simoncelli and Bovik 2003); as many of five"
        " scales as leave 11 voxels along the shortest axis, their weights scaled to the sum of all five.",
    ),
    "nrmse": Metric(
        "NRMSE",
        "",
        "lower",
        "Root mean squared error over the range of the reference, both in the region (scikit-image, min-max).",
    ),
    "mae": Metric("MAE", "%", "lower", f"Mean absolute error in the region, {RANGE}; {PEAK}."),
    "mae_hu": Metric("MAE", "HU", "lower", "Mean absolute error in the region, not windowed."),
    "rmse_hu": Metric("RMSE", "HU", "lower", "Root mean squared error in the region, not windowed."),
    "bias": Metric("Bias", "%", "zero", f"Mean error (restored minus reference) in the region, {RANGE}; {PEAK}."),
    "bias_hu": Metric("Bias", "HU", "zero", "Mean error (restored minus reference) in the region, not windowed."),
    "hfen": Metric(
        "HFEN",
        "",
        "lower",
        "High-frequency error norm: the error of a 3-D Laplacian of Gaussian of 1.5 voxels over that of the reference,"
        " both as Euclidean norms over the region (Ravishankar and Bresler 2011; scipy).",
    ),
    "vif": Metric(
        "VIF",
        "",
        "higher",
        "Visual information fidelity in the pixel domain, mean over slices across the last axis that hold a tenth of"
        " the foreground; 0 to 255 is the data range (Sheikh and Bovik 2006; needs 41 x 41 pixels).",
    ),
    "nmi": Metric(
        "NMI",
        "",
        "higher",
        "Normalised mutual information of 100 x 100 bins over the region, 1 to 2 (Studholme et al. 1999;"
        " scikit-image).",
    ),
    # inpainting
    "brats_ssim": Metric(
        "SSIM (BraTS)",
        "",
        "higher",
        "Of the BraTS local-synthesis challenge: 3-D map of the images zeroed outside of the hole and divided by the"
        " truth's maximum inside, averaged inside the hole.",
    ),
    "brats_psnr": Metric(
        "PSNR (BraTS)",
        "dB",
        "higher",
        "Of the BraTS local-synthesis challenge: 10 log10(range^2 / MSE), both of the truth and the image inside the"
        " hole.",
    ),
    "brats_mse": Metric(
        "MSE (BraTS)",
        "",
        "lower",
        "Of the BraTS local-synthesis challenge: inside the hole, over the truth's maximum there squared.",
    ),
    # regions and CT
    "snr": Metric("SNR", "", "higher", "Mean over standard deviation of the voxels of a label."),
    "cnr": Metric(
        "CNR",
        "",
        "higher",
        "Contrast of a label with the unlabelled voxels within 3 voxels of it, over the root mean square of both"
        " standard deviations.",
    ),
    "nps_peak": Metric(
        "NPS peak",
        "1/mm",
        "",
        "Frequency of the largest noise power in a uniform label: 32 x 32 pixel squares, second-order surface"
        " subtracted, radial mean (ICRU Report 87). Compare with the input: a lower peak is coarser, smeared noise.",
    ),
    "nps_mean": Metric("NPS mean", "1/mm", "", "Mean frequency of the same noise power spectrum, weighted by power."),
    "mtf50": Metric(
        "MTF50",
        "1/mm",
        "higher",
        "Frequency at which the contrast of a round label's edge is halved (circular edge, Richard et al. 2012).",
    ),
    # uncertainty
    **{
        f"coverage_{level}": Metric(
            f"Coverage {level} %",
            "",
            "",
            f"Share of the region's voxels whose true value lies in the stated {level} % interval; {level / 100:g} is"
            " ideal.",
        )
        for level in (50, 80, 90, 95)
    },
    "width": Metric("Interval width", "%", "lower", f"Mean width of the stated 90 % interval in the region, {RANGE}."),
    "crps": Metric(
        "CRPS",
        "%",
        "lower",
        f"Continuous ranked probability score of the stated normal distribution, mean over the region, {RANGE}"
        " (Gneiting and Raftery 2007).",
    ),
    "ause": Metric(
        "AUSE",
        "",
        "lower",
        "Area between the sparsification curve of the stated deviation and that of the true error: 0 when it orders"
        " voxels as the error does (Ilg et al. 2018).",
    ),
    "ause_random": Metric("AUSE, random", "", "", "The same area for voxels in random order, for comparison."),
    "error_rank": Metric(
        "Error rank", "", "higher", "Spearman's rank correlation of the stated deviation and the absolute error."
    ),
    # without a reference
    "noise_before": Metric("Noise before", "%", "", "Noise estimated in the scan, in percent of its bright level."),
    "noise_after": Metric("Noise after", "%", "lower", "The same in the restored image; it holds fine anatomy too."),
    "noise_ratio": Metric("Noise ratio", "", "", "Noise after over noise before; no judgement without sharpness."),
    "removed": Metric(
        "Removed variance",
        "",
        "one",
        "Variance of what was removed (less what the Rician law adds) over that of the noise, in the foreground by"
        " Otsu's threshold of the middle 160 voxels an axis: 1 when all noise and nothing else was removed.",
    ),
    "residual_mean": Metric("Residual mean", "sigma", "zero", "Mean of what was removed, in the noise's deviation."),
    "residual_lag1": Metric(
        "Residual whiteness",
        "",
        "zero",
        "Largest correlation of neighbouring voxels of what was removed: 0 for white noise, more where structure was"
        " removed.",
    ),
    "residual_coarse": Metric(
        "Residual coarse power",
        "",
        "",
        "Variance of what was removed after means over 3 voxels an axis, in the steepest fifth of the foreground, over"
        " that of white noise: 1 if just the noise was removed, less where some was kept with structure, more where"
        " structure went.",
    ),
    "residual_edges": Metric(
        "Residual at edges", "", "zero", "Correlation of the size of what was removed with the image's gradient."
    ),
    "sharpness": Metric(
        "Sharpness",
        "",
        "",
        "Mean slope across the steepest tenth of edges over that of the scan: below 1 edges are blurred, above 1"
        " sharper.",
    ),
    # benchmarks
    "dark_bias": Metric(
        "Bias where dark",
        "sigma",
        "zero",
        "Mean error, in the noise's standard deviation, where the reference is below 1.5 of them.",
    ),
    "seconds": Metric("Time", "s", "lower", "Wall time of one restoration, without imports and loading of weights."),
    "cpu_seconds": Metric(
        "CPU time",
        "s",
        "lower",
        "Processor time of one restoration, over all cores; other programs do not lengthen it.",
    ),
    "peak_gb": Metric(
        "Peak memory", "GB", "lower", "Largest resident memory of the process that restored, imports included."
    ),
}

# what methods are compared by, so that the correction for many comparisons does not drown the few that matter
JUDGED = ("psnr", "ssim", "ms_ssim", "nrmse", "mae", "mae_hu", "hfen", "vif", "brats_ssim", "brats_psnr", "brats_mse")


def used(names: Iterable[str]) -> dict[str, Metric]:
    """The metrics of these names, in the catalogue's order."""
    wanted = set(names)
    return {name: metric for name, metric in METRICS.items() if name in wanted}
