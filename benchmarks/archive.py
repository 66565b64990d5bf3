"""Whether a result lives in a real archive: ``python -m benchmarks.archive INPUT OUTPUT``.

Starts an Orthanc server in a network of its own, where nothing else can reach it, sends the images of both folders
to it by C-STORE and, into a second, empty one, by STOW-RS, asks what it holds (C-FIND, QIDO-RS), gets all back (C-GET,
WADO-RS) and compares. Needs Orthanc with its DICOMweb plug-in, pynetdicom and dicomweb-client.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from benchmarks import report

PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc/plugins", "/usr/local/share/orthanc/plugins")
HTTP, DICOM = 8042, 4242
INSIDE = "MEDIDIFF_ARCHIVE_NETWORK"
STARTS_WITHIN = 60  # seconds

Images = dict[str, Dataset]


@dataclass(frozen=True)
class Found:
    """What came back of what was sent.

    Attributes:
        way: ``C-STORE and C-GET`` or ``STOW-RS and WADO-RS``.
        sent: images sent.
        stored: images that the archive accepted.
        studies: studies that it holds, and how many there are in what was sent.
        series: the same of series.
        equal: images that came back with equal pixels and labels.
        ordered: whether each derived series has a SeriesNumber above that of its source.
    """

    way: str
    sent: int
    stored: int
    studies: tuple[int, int]
    series: tuple[int, int]
    equal: int
    ordered: bool

    @property
    def whole(self) -> bool:
        """Whether nothing was lost or changed."""
        counted = self.studies[0] == self.studies[1] and self.series[0] == self.series[1]
        return self.sent == self.stored == self.equal and counted and self.ordered


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("input", type=Path, help="a folder of DICOM images")
    parser.add_argument("output", type=Path, help="what medidiff made of it")
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="where the table goes")
    options = parser.parse_args(arguments)
    if why := missing():
        raise SystemExit(why)
    if INSIDE not in os.environ:  # again, in a network that holds nothing but this process and the server
        command = ["unshare", "-r", "-n", sys.executable, "-m", "benchmarks.archive"]
        given = [str(options.input), str(options.output), "--results", str(options.results)]
        raise SystemExit(subprocess.run([*command, *given], env={**os.environ, INSIDE: "1"}, check=False).returncode)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    sources, results = images(options.input), images(options.output)
    found = [judge(way, sources, results) for way in (Classic, Web)]
    text = document(found)
    print(text)
    report.write("archive", {"ways": [asdict(each) | {"whole": each.whole} for each in found]}, text, options.results)
    if not all(each.whole for each in found):
        raise SystemExit("Something was lost or changed.")


def missing() -> str:
    """What is not installed, in one sentence; empty when all is there."""
    programs = [name for name in ("Orthanc", "unshare", "ip") if shutil.which(name) is None]
    modules = []
    for name in ("pynetdicom", "dicomweb_client"):
        try:
            __import__(name)
        except ImportError:
            modules.append(name)
    if programs or modules:
        return f"{', '.join(programs + modules)} is not installed."
    if plugin() is None:
        return "Orthanc's DICOMweb plug-in is not installed."
    allowed = subprocess.run(["unshare", "-r", "-n", "ip", "link", "set", "lo", "up"], capture_output=True, check=False)
    return "" if allowed.returncode == 0 else "This machine does not allow a network of one's own (unshare -r -n)."


def plugin() -> Path | None:
    """Orthanc's DICOMweb plug-in."""
    paths = (path for folder in PLUGINS for path in sorted(Path(folder).glob("libOrthancDicomWeb.so*")))
    return next(paths, None)


def images(folder: Path) -> Images:
    """The images below a folder, by SOPInstanceUID; other files are left out."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and pydicom.misc.is_dicom(path):
            dataset = pydicom.dcmread(path)
            if "PixelData" in dataset or "FloatPixelData" in dataset:
                found[str(dataset.SOPInstanceUID)] = dataset
    return found


@contextmanager
def orthanc() -> Iterator[None]:
    """An empty server that listens."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "StorageDirectory": f"{folder}/storage",
            "IndexDirectory": f"{folder}/storage",
            "HttpPort": HTTP,
            "DicomPort": DICOM,
            "AuthenticationEnabled": False,
            "RemoteAccessAllowed": False,
            "DicomAlwaysAllowStore": True,
            "DicomAlwaysAllowFind": True,
            "DicomAlwaysAllowGet": True,
            "Plugins": [str(plugin())],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        file = Path(folder) / "orthanc.json"
        file.write_text(json.dumps(settings))
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen(["Orthanc", str(file)], stdout=log, stderr=log)
            try:
                wait(server, Path(folder) / "log")
                yield
            finally:
                server.terminate()
                server.wait(30)


def wait(server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers."""
    end = time.monotonic() + STARTS_WITHIN
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{HTTP}/system", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"Orthanc does not answer: {log.read_text(errors='replace')[-500:]}")


class Classic:
    """The network services of DICOM (PS3.4 annexes B and C)."""

    name = "C-STORE, C-FIND and C-GET"

    def store(self, sent: Images) -> int:
        """Send the images; give how many were accepted."""
        from pynetdicom import AE

        entity = AE()
        for sop_class, syntax in sorted(
            {(str(d.SOPClassUID), str(d.file_meta.TransferSyntaxUID)) for d in sent.values()}
        ):
            entity.add_requested_context(sop_class, syntax)
        link = entity.associate("127.0.0.1", DICOM)
        try:
            return sum(getattr(link.send_c_store(dataset), "Status", -1) == 0 for dataset in sent.values())
        finally:
            link.release()

    def series(self) -> set[tuple[str, str]]:
        """The (study, series) that the server holds."""
        from pynetdicom import AE
        from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as Find

        entity = AE()
        entity.add_requested_context(Find)
        link = entity.associate("127.0.0.1", DICOM)
        query = Dataset()
        query.QueryRetrieveLevel, query.StudyInstanceUID, query.SeriesInstanceUID = "SERIES", "", ""
        try:
            found = [answer for _, answer in link.send_c_find(query, Find) if answer is not None]
        finally:
            link.release()
        return {(str(each.StudyInstanceUID), str(each.SeriesInstanceUID)) for each in found}

    def fetch(self, sent: Images) -> Images:
        """Get all images of the studies back."""
        from pynetdicom import AE, build_role, evt
        from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as Get

        got: Images = {}

        def keep(event: evt.Event) -> int:
            dataset = event.dataset
            dataset.file_meta = event.file_meta
            got[str(dataset.SOPInstanceUID)] = dataset
            return 0

        entity = AE()
        entity.add_requested_context(Get)
        classes = sorted({str(dataset.SOPClassUID) for dataset in sent.values()})
        syntaxes = sorted({str(dataset.file_meta.TransferSyntaxUID) for dataset in sent.values()})
        for sop_class in classes:
            entity.add_requested_context(sop_class, syntaxes)
        roles = [build_role(sop_class, scp_role=True) for sop_class in classes]
        link = entity.associate("127.0.0.1", DICOM, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, keep)])
        for study in sorted({str(dataset.StudyInstanceUID) for dataset in sent.values()}):
            query = Dataset()
            query.QueryRetrieveLevel, query.StudyInstanceUID = "STUDY", study
            for _ in link.send_c_get(query, Get):
                pass
        link.release()
        return got


class Web:
    """The web services of DICOM (PS3.18)."""

    name = "STOW-RS, QIDO-RS and WADO-RS"

    def __init__(self) -> None:
        from dicomweb_client.api import DICOMwebClient

        self.client = DICOMwebClient(f"http://127.0.0.1:{HTTP}/dicom-web")

    def store(self, sent: Images) -> int:
        """Send the images; give how many were accepted."""
        answer = self.client.store_instances(list(sent.values()))
        return len(answer.ReferencedSOPSequence)

    def series(self) -> set[tuple[str, str]]:
        """The (study, series) that the server holds."""
        found = [Dataset.from_json(each) for each in self.client.search_for_series()]
        return {(str(each.StudyInstanceUID), str(each.SeriesInstanceUID)) for each in found}

    def fetch(self, sent: Images) -> Images:
        """Get all images of the studies back."""
        studies = sorted({str(dataset.StudyInstanceUID) for dataset in sent.values()})
        back = [each for study in studies for each in self.client.retrieve_study(study)]
        return {str(each.SOPInstanceUID): each for each in back}


def judge(way: type[Classic] | type[Web], sources: Images, results: Images) -> Found:
    """Send all to an empty server, get it back, and compare."""
    sent = {**sources, **results}
    with orthanc():
        archive = way()
        stored, there, got = archive.store(sent), archive.series(), archive.fetch(sent)
    given = {(str(each.StudyInstanceUID), str(each.SeriesInstanceUID)) for each in sent.values()}
    return Found(
        way=way.name,
        sent=len(sent),
        stored=stored,
        studies=(len({study for study, _ in there}), len({study for study, _ in given})),
        series=(len(there), len(given)),
        equal=sum(uid in got and same(dataset, got[uid]) for uid, dataset in sent.items()),
        ordered=ordered(sources, {uid: got[uid] for uid in results if uid in got}),
    )


def same(one: Dataset, other: Dataset) -> bool:
    """Whether two images have equal stored pixels and equal attributes."""
    pixels = [key for key in ("PixelData", "FloatPixelData") if key in one]
    if not all(key in other and bytes(one[key].value) == bytes(other[key].value) for key in pixels):
        return False
    plain = [each for each in one if each.keyword not in pixels]
    return all(element.tag in other and other[element.tag].value == element.value for element in plain)


def ordered(sources: Images, results: Images) -> bool:
    """Whether every derived image lies in the study of its sources, in a series with a higher number."""
    highest: dict[str, int] = defaultdict(int)
    for each in sources.values():
        highest[str(each.StudyInstanceUID)] = max(highest[str(each.StudyInstanceUID)], int(each.SeriesNumber or 0))
    return bool(results) and all(
        str(each.StudyInstanceUID) in highest and int(each.SeriesNumber) > highest[str(each.StudyInstanceUID)]
        for each in results.values()
    )


def document(found: Sequence[Found]) -> str:
    """The table in Markdown."""
    head = ["services", "images sent", "stored", "back and equal", "studies", "series", "derived series come last"]
    rows = [
        [
            each.way,
            each.sent,
            each.stored,
            each.equal,
            f"{each.studies[0]} of {each.studies[1]}",
            f"{each.series[0]} of {each.series[1]}",
            "yes" if each.ordered else "NO",
        ]
        for each in found
    ]
    return report.table(head, rows) + "\n"


if __name__ == "__main__":
    main()
