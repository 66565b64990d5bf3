"""Measures time and memory of every task next to what a user would pick instead, and the machine's own limit.

    python -m benchmarks.bench             full size, hours of processor time with --with-bm4d --long
    python -m benchmarks.bench --crop 128 --one-pass    smaller images, without samples: a quarter of an hour

Each line runs in a process of its own, so that its memory is its own. MONAI's network is untrained: its line tells time
alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from benchmarks import cases, report
from medidiff.footprint import peak_gb
from medidiff.physics.fidelity import foreground_psnr
from medidiff.runs import pace

SCAN = "t1w_philips_mprage.nii.gz"
PHANTOM_SHAPE = (192, 224, 192)
PERCENT = 9.0
SAMPLES, STEPS = 8, 8
ROI, OVERLAP, WIDTHS = 96, 0.25, (32, 64, 128)  # of MONAI's inferer and network
REGRESSION = 1.2  # a ratio that is this much worse than the kept one is a regression
PROBE, TIMES = (104, 104, 104), 3  # voxels and repeats of the kept ratios
HOLE = 8  # voxels: radius
Result = dict[str, Any]
PEERS = ("nlm default", "nlm best", "ants", "bm4d")
MONAI = "monai"


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    if options.worker:
        print(json.dumps(work(json.loads(options.worker), options)))
        return
    threads = report.use_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        what = write_images(Path(folder), options)
        print(f"{what}; {threads} threads\n")
        results = [measured(job, options, threads, folder) for job in jobs(options)]
        machine = the_machine(options, Path(folder))
    found = verdicts(results, machine)
    result = {
        "environment": report.environment(None, threads),
        "data": what,
        "crop": options.crop,
        "noise": PERCENT,
        "machine": machine,
        "ratios": ratios(machine),
        "verdicts": [vars(verdict) for verdict in found],
        "lines": results,
    }
    text = document(result, found)
    print("\n" + text)
    report.write("bench", result, text, options.results)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_const", const=96, dest="crop", help="the same as --crop 96")
    parser.add_argument("--crop", type=int, metavar="N", help="the middle N voxels of the brain, and a CT as large")
    parser.add_argument("--one-pass", action="store_true", help="without the lines of samples, which take hours")
    parser.add_argument("--long", action="store_true", help="also 8 x 8 samples of the CT, an hour or more")
    parser.add_argument("--with-bm4d", action="store_true", help="also BM4D (minutes; non-commercial licence)")
    parser.add_argument("--threads", type=int, help="default: all cores that the process may use")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--results", type=Path, default=report.RESULTS)
    for name in ("--worker", "--folder"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def write_images(folder: Path, options: argparse.Namespace) -> str:
    """Noisy images as arrays in a folder; a sentence on what they are."""
    real = cases.real_data()
    crop = options.crop
    if real is not None:
        case = cases.load(real / SCAN, crop, "MR")
        clean, name = case.clean, case.name
    else:
        clean, name = pace.phantom((crop,) * 3 if crop else PHANTOM_SHAPE).array / 1000, "a phantom"
    noisy = cases.noisy_version(clean, PERCENT)
    size = (crop,) * 3 if crop else (512, 512, 300)
    np.save(folder / "clean.npy", clean)
    np.save(folder / "brain.npy", noisy)
    np.save(folder / "image.npy", np.ascontiguousarray(noisy[:, :, noisy.shape[2] // 2][..., None]))
    np.save(folder / "ct.npy", pace.phantom(size, "CT").array)
    shape = " x ".join(map(str, noisy.shape))
    return f"Brain: {name}, {shape}, {PERCENT:g} % Rician noise; CT: a phantom, {' x '.join(map(str, size))}"


def jobs(options: argparse.Namespace) -> Iterator[Result]:
    """Every line: method, task, image, samples."""
    for image, pipeline in (("brain", "mr"), ("ct", "ct"), ("image", "image2d")):
        yield {"method": "medidiff", "task": "denoise", "image": image, "pipeline": pipeline, "samples": 0}
    for task in ("superres", "inpaint"):
        yield {"method": "medidiff", "task": task, "image": "brain", "pipeline": "mr", "samples": 0}
    drawn = (("brain", "mr"), ("image", "image2d"), *([("ct", "ct")] if options.long else []))
    for image, pipeline in () if options.one_pass else drawn:
        yield {"method": "medidiff", "task": "denoise", "image": image, "pipeline": pipeline, "samples": SAMPLES}
    for task in () if options.one_pass else ("superres", "inpaint"):
        yield {"method": "medidiff", "task": task, "image": "brain", "pipeline": "mr", "samples": SAMPLES}
    for method in (*PEERS[: None if options.with_bm4d else -1], MONAI):
        yield {"method": method, "task": "denoise", "image": "brain", "samples": 0}
    yield {"method": "cubic spline", "task": "superres", "image": "brain", "samples": 0}


def title(job: Result) -> str:
    """One line's name."""
    many = f", {job['samples']} x {STEPS}" if job["samples"] else ""
    return f"{job['method']}, {job['task']}, {job['image']}{many}"


def measured(job: Result, options: argparse.Namespace, threads: int, folder: str) -> Result:
    """One line, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench", "--worker", json.dumps(job), "--folder", folder]
    command += ["--threads", str(threads), "--device", options.device]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=cases.ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        reason = lines[-1] if lines else f"exit code {done.returncode}"
        print(f"{title(job)}: failed ({reason})", flush=True)
        return job | {"error": reason}
    result: Result = job | json.loads(done.stdout.splitlines()[-1])
    print(f"{title(job):44} {result['cpu_seconds']:8.1f} CPU s  peak {result['peak_gb']:.2f} GB", flush=True)
    return result


def work(job: Result, options: argparse.Namespace) -> Result:
    """The measurement itself, inside the process of one line."""
    report.use_threads(options.threads)
    if hasattr(os, "sched_setaffinity"):  # some methods take every core that they may use
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    folder = Path(options.folder)
    noisy = np.load(folder / f"{job['image']}.npy")
    run = prepared(job, noisy, options)
    begin, busy, idle = time.perf_counter(), time.process_time(), peak_gb()
    image = run()
    found = {
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - busy,
        "idle_gb": idle,
        "peak_gb": peak_gb(),
        "voxels": int(np.prod(image.shape)),
    }
    if torch.cuda.is_available():
        found["peak_gpu_gb"] = torch.cuda.max_memory_allocated() / 1e9
    if job["image"] == "brain" and job["task"] == "denoise" and job["method"] != MONAI:
        found["psnr"] = foreground_psnr(image, np.load(folder / "clean.npy"))
    return found


def prepared(job: Result, noisy: cases.Image, options: argparse.Namespace) -> Any:
    """The run of a line, everything loaded."""
    method = job["method"]
    if method == "medidiff":
        return ours(job, noisy, options)
    if method == MONAI:
        return monai_inferer(noisy, options)
    if method == "cubic spline":
        return lambda: ndimage.zoom(noisy[:, :, ::2], (1, 1, 2), order=3)
    from medidiff.evaluation import baselines

    sigma = PERCENT / 100
    if method == "ants":
        import ants  # noqa: F401  (its import is loading, not denoising)

        return lambda: baselines.ants(noisy, sigma, "rician")
    if method == "bm4d":
        import bm4d  # noqa: F401

        return lambda: baselines.bm4d(noisy, sigma, "rician")
    import dipy.denoise.nlmeans  # noqa: F401

    setting = baselines.NLM_BEST if method == "nlm best" else baselines.NLM_DEFAULT
    return lambda: setting(noisy, sigma, "rician", options.threads)


def ours(job: Result, noisy: cases.Image, options: argparse.Namespace) -> Any:
    """A restoration by medidiff."""
    from medidiff import pipelines
    from medidiff.config import ComputeOptions, RestoreOptions
    from medidiff.scans.volume import Volume

    compute = ComputeOptions(device=options.device, threads=options.threads)
    pipeline = pipelines.load(job["pipeline"], job["task"], compute=compute)
    settings: Result = {"samples": job["samples"], "steps": STEPS, "force": True}
    affine, hole = np.eye(4), None
    if job["task"] == "superres":
        noisy, settings["factor"] = np.ascontiguousarray(noisy[:, :, ::2]), (1, 1, 2)
        affine[2, 2] = 2
    if job["task"] == "inpaint":
        away = np.ogrid[tuple(slice(0, n) for n in noisy.shape)]
        hole = sum((x - n / 2) ** 2 for x, n in zip(away, noisy.shape, strict=True)) < HOLE**2
    volume = Volume(noisy, affine, "CT" if job["image"] == "ct" else "MR")
    return lambda: pipeline.restore(volume, RestoreOptions(**settings), hole=hole).mean


def monai_inferer(noisy: cases.Image, options: argparse.Namespace) -> Any:
    """MONAI's sliding windows over its diffusion network: one evaluation, untrained."""
    from monai.inferers.inferer import SlidingWindowInferer
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    network = DiffusionModelUNet(
        spatial_dims=3, in_channels=1, out_channels=1, channels=WIDTHS, num_res_blocks=1, norm_num_groups=32,
        attention_levels=(False,) * 3, use_flash_attention=True,
    ).to(device).eval()  # fmt: skip
    inferer = SlidingWindowInferer((ROI,) * 3, overlap=OVERLAP, mode="gaussian")
    image = torch.from_numpy(noisy)[None, None].to(device)

    def run() -> cases.Image:
        with torch.inference_mode():
            found = inferer(image, lambda x: network(x, torch.full((len(x),), 500, device=x.device)))
        return np.asarray(found[0, 0].cpu())

    return run


def the_machine(options: argparse.Namespace, folder: Path) -> Result:
    """The dense convolution, the network next to it, stages, start-up; in processor time on the CPU."""
    from medidiff import pipelines
    from medidiff.config import ComputeOptions
    from medidiff.runs.bench import FORMATS
    from medidiff.scans.volume import Volume

    compute = ComputeOptions(device=options.device, threads=options.threads)
    pipeline = pipelines.load("mr", compute=compute)
    device = pipeline.engine.device
    clock = time.process_time if device.device.type == "cpu" else time.perf_counter
    pace.measure(pipeline, pace.phantom((48, 48, 48)), clock)
    dense = pace.convolution_rate(device.device, FORMATS[device.precision], clock)
    brain = pace.measure(pipeline, Volume(np.load(folder / "brain.npy"), np.eye(4), "MR"), clock)
    return {
        "device": str(device),
        "precision": device.precision,
        "dense_flops": dense,
        "network_flops": brain.rate,
        "operations_a_voxel": brain.operations,
        "stages_us_a_voxel": {stage: 1e6 * each for stage, each in brain.stages.items()},
        "start_up_cpu_seconds": start_ups(folder),
        "probe": probe(pipeline, clock, dense),
    }


def probe(pipeline: Any, clock: pace.Clock, dense: float | None = None) -> Result:
    """The ratios that are kept and compared, on a small phantom; the best of several runs."""
    dense = dense or pace.convolution_rate(pipeline.engine.device.device, clock=clock)
    volume = pace.phantom(PROBE)
    runs = [pace.measure(pipeline, volume, clock, whole=False) for _ in range(TIMES)]
    best = {stage: min(run.stages[stage] for run in runs) for stage in pace.STAGES}
    network = best["network"]
    found = {f"{stage} over network": each / network for stage, each in best.items() if stage != "network"}
    return {"dense over network rate": dense / max(run.rate for run in runs), **found}


def start_ups(folder: Path) -> dict[str, float]:
    """Processor seconds of commands from a cold start, the best of three."""
    import nibabel as nib

    image = folder / "image.nii"
    nib.save(nib.Nifti1Image(np.round(1000 * np.load(folder / "image.npy")).astype(np.int16), np.eye(4)), image)
    commands = {
        "--help": ["--help"],
        "list": ["list"],
        "denoise of one 2-D image": ["denoise", str(image), "-o", str(folder / "out"), "--overwrite", "--threads", "1"],
    }
    return {name: min(processor_seconds(command) for _ in range(3)) for name, command in commands.items()}


def processor_seconds(arguments: Sequence[str]) -> float:
    """Processor time of one command of medidiff."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "medidiff", *arguments], cwd=cases.ROOT, capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def ratios(machine: Result) -> Result:
    """What later runs are compared with."""
    return dict(machine["probe"])


def worse(now: Result, kept: Result, by: float = REGRESSION) -> list[str]:
    """The ratios that became worse, as sentences; those below a hundredth of the network are too small to judge."""
    return [
        f"{name}: {now[name]:.3f}, was {before:.3f}"
        for name, before in kept.items()
        if now[name] > by * before and now[name] - before > 0.01
    ]


def verdicts(results: Sequence[Result], machine: Result) -> list[report.Verdict]:
    """The goals."""
    lines = {title(result): result for result in results if "error" not in result}
    one = lines.get("medidiff, denoise, brain")
    found = []
    for name, times in (("bm4d", 25), ("ants", 3), (MONAI, 10)):
        other = lines.get(f"{name}, denoise, brain")
        goal = f"at least {times} times faster than {name}, at higher PSNR" if name != MONAI else (
            f"at least {times} times faster than MONAI's inferer with an untrained DiffusionModelUNet {WIDTHS}"
        )  # fmt: skip
        if one is None or other is None:
            found.append(report.Verdict(goal, "not run", None))
            continue
        ratio = other["cpu_seconds"] / one["cpu_seconds"]
        better = name == MONAI or one["psnr"] > other["psnr"]
        psnr = "" if name == MONAI else f", {one['psnr']:.2f} against {other['psnr']:.2f} dB"
        found.append(report.Verdict(goal, f"{ratio:.1f} times{psnr}", ratio >= times and better))
    share = machine["network_flops"] / machine["dense_flops"]
    found.append(report.Verdict("the network at 60 % of dense convolution", f"{100 * share:.0f} %", share >= 0.6))
    stages = machine["stages_us_a_voxel"]
    rest = 1 - stages["network"] / sum(stages.values())
    found.append(report.Verdict("all else at most 15 % of a run on a brain", f"{100 * rest:.0f} %", rest <= 0.15))
    for name, most in (("--help", 0.4), ("list", 0.4), ("denoise of one 2-D image", 5.0)):
        seconds = machine["start_up_cpu_seconds"][name]
        found.append(report.Verdict(f"{name} in {most:g} s", f"{seconds:.2f} s of processor", seconds < most))
    return found


def document(result: Result, found: Sequence[report.Verdict]) -> str:
    """Everything that was found, in Markdown."""
    where = result["environment"]
    parts = [
        "# Time and memory of every task",
        f"{result['data']}; {where['processor']}, {where['threads']} threads.",
        lines_table(result),
        "Loading is not in the time. The peak is of the whole process, imports included.",
        machine_table(result["machine"]),
        "## Goals",
        "\n".join(str(verdict) for verdict in found),
    ]
    return "\n\n".join(parts)


def lines_table(result: Result) -> str:
    """Each line: time, memory, PSNR."""
    rows = [
        [
            title(line),
            report.figure(line["seconds"], 1),
            report.figure(line["cpu_seconds"], 1),
            report.figure(1e6 * line["cpu_seconds"] / line["voxels"], 2),
            report.figure(line["peak_gb"]),
            report.figure(line.get("psnr", float("nan"))),
        ]
        for line in result["lines"]
        if "error" not in line
    ]
    return report.table(["", "s", "CPU s", "µs a voxel", "peak GB", "PSNR, dB"], rows)


def machine_table(machine: Result) -> str:
    """The machine and the stages."""
    stages = machine["stages_us_a_voxel"]
    rows = [[stage, report.figure(each, 3), report.figure(100 * each / sum(stages.values()), 1)]
            for stage, each in stages.items()]  # fmt: skip
    dense, network = machine["dense_flops"] / 1e9, machine["network_flops"] / 1e9
    sentence = (
        f"Dense 3x3x3 convolution {dense:.0f} GFLOP/s; the network {network:.0f} GFLOP/s with"
        f" {machine['operations_a_voxel'] / 1e3:.1f} kFLOP a voxel, {100 * network / dense:.0f} % of it."
    )
    return sentence + "\n\n" + report.table(["stage of one pass, brain", "µs a voxel", "%"], rows)


if __name__ == "__main__":
    main()
