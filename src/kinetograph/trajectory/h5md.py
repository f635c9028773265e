"""Making an H5MD file and adding frames to it: chunks, compression, and the order of writing.

Atom vectors are compressed without loss into what HDF5's shuffle and deflate filters read, in any
program. Of the four bytes of a number the highest, sign and exponent, repeats itself and the others
are nearly noise: packing it alone gains as much as deflating them all, in a seventh of the time.
Positions, velocities and forces of liquids on one core of an AMD EPYC:

============================  =========================  =========================
                              argon, 258 atoms           water, 6282 atoms
----------------------------  -------------------------  -------------------------
compression                   size     ms a frame        size     ms a frame
============================  =======  ================  =======  ================
highest bytes (this file)     0.83     0.02              0.83     0.5
shuffle, deflate level 1      0.81     0.13              0.86     3.5
shuffle, deflate level 4      0.80     0.16              0.85     4.2
deflate level 1               0.92     0.25              0.92     5.4
shuffle, LZF                  0.87     0.08              0.91     1.7
none                          1.00     0.01              1.00     0.2
============================  =======  ================  =======  ================

A chunk that goes to disk before it is full stays uncompressed and is filled in its place. Compressed
later it would have another size, so another place, and HDF5 would not use the old one again.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np

from kinetograph.trajectory.layout import (
    FILE_FORMAT,
    NO_STEP,
    OBSERVABLES,
    STRESS,
    VECTOR_ELEMENTS,
    Array,
    Frame,
    Head,
    elements_of,
    text_of,
)
from kinetograph.trajectory.output import replacing
from kinetograph.trajectory.reader import Trajectory

CHUNK_BYTES = 64 * 1024
MAX_CHUNK_FRAMES = 1024
COMPRESSION = {"shuffle": True, "compression": "gzip", "compression_opts": 1}
ZLIB_HEADER = b"\x78\x01"  # of RFC 1950: deflate, a window of 32 KiB, fastest
NOT_FILTERED = 0b11  # HDF5's mask of filters left out of a chunk: shuffle and deflate
MARGIN_BYTES = 1024 * 1024
FIELDS = {  # name in the file: field of Frame
    "step": "step",
    "time": "time_fs",
    "position": "positions",
    "velocity": "velocities",
    "force": "forces",
    "edges": "cell",
    STRESS: "stress",
    **{name: field for name, (field, _) in OBSERVABLES.items()},
}


def chunk_frames(bytes_per_frame: int) -> int:
    """How many frames of an element share a chunk."""
    return min(MAX_CHUNK_FRAMES, max(1, CHUNK_BYTES // bytes_per_frame))


def bytes_per_vector(n_atoms: int) -> int:
    """Of a frame, for one of the atom vectors, uncompressed."""
    return max(1, n_atoms) * 3 * np.dtype(np.float32).itemsize


def fields_of(frame: Frame) -> set[str]:
    """What a frame has, by the names in the file."""
    return {name for name, field in FIELDS.items() if getattr(frame, field) is not None}


def write_new(path: Path, head: Head, frames: Sequence[Frame]) -> None:
    """A complete file in one atomic step.

    Raises:
        OSError: such as for want of space; what was there before is as it was.
    """
    with replacing(path) as temporary:
        if frames:
            temporary.touch()
            _reserve_space(temporary, frames)
        with h5py.File(temporary, "w", libver=FILE_FORMAT, locking=False) as file:
            _create(file, head)
            if frames:
                _create_elements(file, fields_of(frames[0]), len(head.masses))
                _put(file, frames, 0)


def copy(old: Trajectory, n_frames: int, path: Path) -> None:
    """The first frames of an open file as a clean one in its place, in one atomic step."""
    with replacing(path) as temporary, h5py.File(temporary, "w", libver=FILE_FORMAT, locking=False) as file:
        _create(file, old.head)
        if n_frames == 0:
            return
        sources = dict(elements_of(old.file))
        _create_elements(file, set(sources), old.n_atoms)
        values = {f"{element.name}/value" for element in sources.values()}
        values |= {f"particles/trajectory/position/{part}" for part in ("step", "time")}
        for name in values:
            _extend(file[name], 0, n_frames, partial(_part, old.file[name]))


def append(path: Path, frames: Sequence[Frame], n_before: int) -> None:
    """Add frames behind the first ``n_before``. What was there stays readable whatever happens.

    Raises:
        OSError: such as for want of space; the file is as it was where that is known beforehand.
    """
    _reserve_space(path, frames)
    with _single_writer(path) as file:
        _put(file, frames, n_before)


def _single_writer(path: Path) -> h5py.File:
    """The file, opened in single-writer mode at once.

    Switched on later, as ``File.swmr_mode`` does, it leaves a moment in which a killed writer leaves a
    file that is marked as open for writing but not in this mode, and HDF5 refuses to read such a file.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fclose_degree(h5py.h5f.CLOSE_STRONG)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    access.set_file_locking(False, True)
    flags = h5py.h5f.ACC_RDWR | h5py.h5f.ACC_SWMR_WRITE
    return h5py.File(h5py.h5f.open(os.fsencode(path), flags, access))


def _create(file: h5py.File, head: Head) -> None:
    h5md = file.create_group("h5md")
    h5md.attrs["version"] = np.array([1, 1])
    h5md.create_group("author").attrs["name"] = "unknown"
    creator = h5md.create_group("creator")
    creator.attrs["name"] = "kinetograph"
    creator.attrs["version"] = version("kinetograph")
    h5md.create_group("modules/units").attrs["version"] = np.array([1, 0])
    particles = file.create_group("particles/trajectory")
    box = particles.create_group("box")
    box.attrs["dimension"] = 3
    box.attrs["boundary"] = ["periodic" if periodic else "none" for periodic in head.pbc]
    particles["species"] = head.atomic_numbers
    particles["mass"] = head.masses
    particles["mass"].attrs["unit"] = "u"
    if head.bonds is not None:
        file["connectivity/bonds"] = head.bonds
        file["connectivity/bonds"].attrs["particles_group"] = particles.ref
    file["parameters/kinetograph/metadata"] = json.dumps(head.metadata, ensure_ascii=False, default=str)


def _create_elements(file: h5py.File, present: set[str], n_atoms: int) -> None:
    """Empty time-dependent elements of these names; all share step and time."""
    particles = file["particles/trajectory"]
    step = particles.create_dataset(
        "position/step", (0,), np.int64, maxshape=(None,), chunks=(1024,), fillvalue=NO_STEP
    )
    times = particles.create_dataset("position/time", (0,), np.float64, maxshape=(None,), chunks=(1024,))
    times.attrs["unit"] = "fs"

    def element(group: h5py.Group, shape: tuple[int, ...], kind: type, unit: str) -> None:
        per_frame = int(np.prod(shape)) * np.dtype(kind).itemsize
        chunks = (chunk_frames(per_frame), *shape)
        compression = COMPRESSION if kind is np.float32 else {}
        group.create_dataset(
            "value", (0, *shape), kind, maxshape=(None, *shape), chunks=chunks, **compression
        )
        group["value"].attrs["unit"] = unit
        if "step" not in group:
            group["step"] = step
            group["time"] = times

    for name, (unit, _) in VECTOR_ELEMENTS.items():
        if name in present:
            element(particles.require_group(name), (n_atoms, 3), np.float32, unit)
    if any(text_of(boundary) == "periodic" for boundary in particles["box"].attrs["boundary"]):
        element(particles["box"].create_group("edges"), (3, 3), np.float64, "Angstrom")
    for name, (_, unit) in OBSERVABLES.items():
        if name in present:
            element(file.create_group(f"observables/{name}"), (), np.float64, unit)
    if STRESS in present:
        element(file.create_group(f"observables/{STRESS}"), (3, 3), np.float64, "eV Angstrom-3")


def _put(file: h5py.File, frames: Sequence[Frame], n_before: int) -> None:
    """Write frames behind the first ``n_before``; steps last, so that a frame counts once it is complete."""
    for name, element in elements_of(file):
        _extend(element["value"], n_before, len(frames), partial(_column, name, frames))
    position = file["particles/trajectory/position"]
    _extend(position["time"], n_before, len(frames), partial(_column, "time", frames))
    file.flush()
    _extend(position["step"], n_before, len(frames), partial(_column, "step", frames))
    file.flush()


def _part(dataset: h5py.Dataset, start: int, stop: int) -> Array:
    values: Array = dataset[start:stop]
    return values


def _column(name: str, frames: Sequence[Frame], start: int, stop: int) -> Array:
    """The values of one element over some of the frames, in the type and the units of the file."""
    values = [getattr(frame, FIELDS[name]) for frame in frames[start:stop]]
    if name not in VECTOR_ELEMENTS:
        return np.asarray(values)
    column = np.empty((len(values), *values[0].shape), dtype=np.float32)
    for single, value in zip(column, values, strict=True):  # in one pass, without copies in double precision
        np.multiply(value, VECTOR_ELEMENTS[name][1], out=single, casting="same_kind")
    return column


def _extend(dataset: h5py.Dataset, n_before: int, n_new: int, values: Callable[[int, int], Array]) -> None:
    """Put new values behind the first ``n_before``, chunk by chunk.

    Args:
        values: gives the new values from one place among them to another.
    """
    dataset.resize(n_before + n_new, axis=0)
    n_chunk = dataset.chunks[0]
    start = n_before
    while start < n_before + n_new:
        stop = min(start - start % n_chunk + n_chunk, n_before + n_new)
        part = values(start - n_before, stop - n_before)
        if dataset.compression is None:
            dataset[start:stop] = part
        else:
            _put_in_chunk(dataset, start, part)
        start = stop


def _put_in_chunk(dataset: h5py.Dataset, start: int, values: Array) -> None:
    """Put values into one chunk: compressed where they are all of it."""
    n_chunk = dataset.chunks[0]
    n_begun = start % n_chunk
    place = (start - n_begun, *[0] * (values.ndim - 1))
    if len(values) == n_chunk:
        dataset.id.write_direct_chunk(place, _compressed(values.astype(dataset.dtype, copy=False)))
        return
    chunk = np.zeros(dataset.chunks, dtype=dataset.dtype)
    chunk[:n_begun] = dataset[start - n_begun : start]
    chunk[n_begun : n_begun + len(values)] = values
    dataset.id.write_direct_chunk(place, chunk, NOT_FILTERED)


def _compressed(chunk: Array) -> bytes:
    """A chunk of single-precision numbers as HDF5's filters read it, made while other threads run.

    Shuffled, the bytes of a kind stand together. Three quarters of them are noise and stay as they are; the
    highest bytes, signs and exponents, are packed. The parts make one zlib stream (RFC 1950).
    """
    shuffled = np.ascontiguousarray(chunk.view(np.uint8).reshape(-1, chunk.itemsize).T).data
    plain = zlib.compressobj(zlib.Z_NO_COMPRESSION, wbits=-zlib.MAX_WBITS)
    noise = plain.compress(shuffled[:-1]) + plain.flush(zlib.Z_SYNC_FLUSH)
    packing = zlib.compressobj(zlib.Z_BEST_SPEED, wbits=-zlib.MAX_WBITS, strategy=zlib.Z_HUFFMAN_ONLY)
    highest = packing.compress(shuffled[-1:]) + packing.flush()
    return b"".join([ZLIB_HEADER, noise, highest, zlib.adler32(shuffled).to_bytes(4, "big")])


BYTES_OF_NUMBERS = 256
"""Of a frame: cell, stress, observables, step and time."""


def _reserve_space(path: Path, frames: Sequence[Frame]) -> None:
    """Set aside what a batch needs before HDF5 touches the file; it gives back what is left over.

    Where the system cannot set space aside, look whether there is enough.
    """
    per_element = bytes_per_vector(len(frames[0].positions))
    needed = len(VECTOR_ELEMENTS) * (len(frames) * per_element + max(per_element, CHUNK_BYTES)) + MARGIN_BYTES
    needed += len(frames) * BYTES_OF_NUMBERS
    if not hasattr(os, "posix_fallocate"):
        if shutil.disk_usage(path.parent).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return
    with path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            os.posix_fallocate(file.fileno(), size, needed)
        except OSError:
            os.ftruncate(file.fileno(), size)
            raise
