"""A pack: the results of one seed in one small file, without weights, images and latents; no torch.

It is a zip file. `pack.json` says what it contains; every other file has the path that it has in the results folder,
and the same bytes. Equal results give equal bytes.
"""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ldae.overview.state import State
from ldae.runtime.arrays import DAMAGE
from ldae.runtime.files import atomic_write, parse_json, record_text, verified
from ldae.study.checking import first_mistake
from ldae.study.graph import Graph, Job
from ldae.study.record import commit
from ldae.study.study import Study

HEADER = "pack.json"
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # the date of every file in a pack
LARGEST = 2**26  # bytes of all files of a pack together, at most
FRAME, ENTRY = 22, 30 + 46  # bytes of a zip file itself and for each file in it, beside its content and twice its name
SMALL = 2_000_000  # bytes of a pack up to which pictures are added
PICTURES = ("sample", "denoise")  # the stages whose results are pictures for figures
INSTRUMENT = ("reference", "judge")  # the inputs of a job whose weights are packed, because all seeds share the judge


class Header(BaseModel):
    """What a pack contains: `pack.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    study: str | None  # None for the study of config.yaml
    scale: str
    seed: int
    commit: str  # of the code that packed it


@dataclass(frozen=True)
class Pack:
    """A pack that was read."""

    path: Path
    header: Header
    files: dict[str, bytes]  # by their paths in the results folder


@dataclass(frozen=True)
class Packed:
    """What `pack` has written, and what it has left out."""

    path: Path
    jobs: list[Job]
    left_out: dict[Job, str]  # results that are there but not current or incomplete, with the reason
    absent: list[Job]  # jobs without a result, which tables or figures need
    pictures: int  # files of pictures that would have made the pack too large


def pack(study: Study, root: Path, *, seed: int, out: Path) -> Packed:
    """Writes a pack of the current results of a seed, with the results that they depend on.

    Args:
        study: with its scale.
        root: the folder that holds `results/`.
        seed: the study need not name it.
        out: the zip file.

    Raises:
        ValueError: if there is no current result of the seed, or a file differs from its record.
    """
    graph = Graph(study.with_seeds([seed]), root)
    state, shown = State(graph), _shown_files(graph)
    views = [job for job in graph.jobs.values() if job.is_view]
    needed = {before for view in views for before in view.reads}
    jobs: list[Job] = []
    left_out: dict[Job, str] = {}
    absent: list[Job] = []
    for job in _jobs_of_seed(graph, seed):
        missing = [path for path in (job.record, *shown[job]) if not path.is_file()]
        if job.record in missing:
            absent += [job] if job in needed else []
        elif reason := state.outdated(job):
            left_out[job] = reason
        elif missing or state.record_of(job) is None:
            left_out[job] = f"its {missing[0].name} is absent" if missing else "its record is damaged"
        else:
            jobs.append(job)
    if not any(job.key.get("seed") == seed for job in jobs):
        example = f"; {len(left_out)} are not current, e.g. {_first(left_out)}" if left_out else ""
        raise ValueError(f"{graph.results}: has no current result of seed {seed}{example}")
    header = Header(study=study.name, scale=study.scale_name, seed=seed, commit=commit())
    contents = dict(_contents(graph, state, jobs, shown))
    pictures = {str(path.relative_to(graph.results)) for job in jobs if _is_pictures(job) for path in shown[job]}
    too_large = 0
    with atomic_write(out) as partial, zipfile.ZipFile(partial, "w") as file:
        _add(file, HEADER, record_text(header.model_dump()).encode())
        for name in sorted(contents, key=lambda name: (name in pictures, name)):
            if name in pictures and _size_with(file, name, contents[name]) > SMALL:
                too_large += 1
            else:
                _add(file, name, contents[name])
    return Packed(out, jobs, left_out, absent, too_large)


def read_pack(path: Path) -> Pack:
    """Reads a pack; a `ValueError` or `FileNotFoundError` names a file that is not a pack or is damaged."""
    path.stat()
    try:
        with zipfile.ZipFile(path) as file:
            members = file.infolist()
            if int.from_bytes(path.read_bytes()[-12:-10], "little") != len(members):  # zipfile does not compare them
                raise ValueError("its list of files is incomplete")
            twice = [name for name, count in Counter(member.filename for member in members).items() if count > 1]
            if twice:
                raise ValueError(f"contains {twice[0]} twice")
            if sum(member.file_size for member in members) > LARGEST:
                raise ValueError(f"its files have more than {LARGEST:,} bytes")
            if other := [member.filename for member in members if member.compress_type != zipfile.ZIP_DEFLATED]:
                raise ValueError(f"{other[0]} is not compressed as `ldae pack` does")
            files = {member.filename: _content(file, member) for member in members}
        if HEADER not in files:
            raise ValueError(f"it contains no {HEADER}")
    except (*DAMAGE, NotImplementedError) as error:
        raise ValueError(f"{path}: is not a pack, or is damaged ({' '.join(str(error).split())})") from None
    values = parse_json(files.pop(HEADER), path / HEADER)
    try:
        return Pack(path, Header.model_validate(values), files)
    except ValidationError as error:
        raise ValueError(f"{path}: {first_mistake(Header, error.errors())}; another version packed it") from None


def _content(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The bytes of a file in a pack; of one that is longer than it claims, no more than that is decompressed."""
    with file.open(member) as stream:
        return stream.read(member.file_size)


def summary(packed: Packed, seed: int) -> str:
    """What a pack contains and what it does not, for a reader."""
    lines = [
        f"{packed.path}: {len(packed.jobs)} results of seed {seed} and of what they depend on, "
        f"{packed.path.stat().st_size / 1000:,.0f} kB"
    ]
    if packed.left_out:
        lines.append(f"left out: {len(packed.left_out)} that are not current, e.g. {_first(packed.left_out)}")
    if packed.absent:
        lines.append(f"not computed yet: {len(packed.absent)}, e.g. {packed.absent[0].title}")
    if packed.pictures:
        lines.append(f"left out: {packed.pictures} files of pictures, with which it would exceed {SMALL / 1e6:g} MB")
    return "\n".join(lines)


def _first(left_out: dict[Job, str]) -> str:
    job, reason = next(iter(left_out.items()))
    return f"{job.title} ({reason})"


def _jobs_of_seed(graph: Graph, seed: int) -> list[Job]:
    """The jobs of a seed, those that serve all seeds, and the inputs of both, in the order of the graph."""
    jobs = graph.jobs.values()
    return graph.with_inputs(job for job in jobs if not job.is_view and job.key.get("seed", seed) == seed)


def _shown_files(graph: Graph) -> dict[Job, list[Path]]:
    """The files of each job that are packed beside its record: what views open, except weights; and histories."""
    found: dict[Job, dict[Path, None]] = {job: {} for job in graph.jobs.values()}
    for job in graph.jobs.values():
        found[job].update(dict.fromkeys(path for path in job.files if path.suffix == ".csv"))
        if job.is_view:
            for source, paths in job.reads.items():
                found[source].update(dict.fromkeys(path for path in paths if path.suffix != ".safetensors"))
        for option in INSTRUMENT:
            if option in job.inputs:
                found[job.inputs[option]].update(dict.fromkeys(job.inputs[option].files))
    return {
        job: [path for path in paths if path != job.record and (path.is_file() or not _is_pictures(job))]
        for job, paths in found.items()
    }


def _is_pictures(job: Job) -> bool:
    """Whether the files of a result are pictures, without which its record is packed, too."""
    return job.entry is not None and job.entry.name in PICTURES


def _contents(
    graph: Graph, state: State, jobs: Iterable[Job], shown: dict[Job, list[Path]]
) -> Iterator[tuple[str, bytes]]:
    """The path and the bytes of each file of results, checked against the checksums in their records."""
    for job in jobs:
        about: dict[str, Any] = state.record_of(job) or {}
        for path in (job.record, *(verified(path, about.get("sha256", {})) for path in shown[job])):
            yield str(path.relative_to(graph.results)), path.read_bytes()


def _size_with(file: zipfile.ZipFile, name: str, content: bytes) -> int:
    """The size of a pack with one more file, to within a few bytes."""
    sizes = [(member.filename, member.compress_size) for member in file.infolist()]
    sizes.append((name, len(zlib.compress(content, 9))))
    return FRAME + sum(ENTRY + 2 * len(name.encode()) + size for name, size in sizes)


def _add(file: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Adds a file without the date and the system of this moment."""
    member = zipfile.ZipInfo(name, FIRST_DAY)
    member.create_system, member.external_attr = 3, 0o644 << 16  # as on Linux, readable by all
    file.writestr(member, content, zipfile.ZIP_DEFLATED, 9)
