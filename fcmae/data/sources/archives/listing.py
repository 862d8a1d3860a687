"""The regular files in a .tar or .zip, and what keeps others from being read."""

import os
import posixpath
import stat
import struct
import tarfile
import zipfile
from collections.abc import Iterator
from typing import BinaryIO, cast

from fcmae.data.endings import EXTENSIONS, ending_of
from fcmae.data.sources.archives.member import DEFLATED, IN_TAR, LOCAL_HEADER, STORED, Found
from fcmae.data.sources.entries import Survey
from fcmae.data.stores.access import Access
from fcmae.data.stores.ahead import AheadFile
from fcmae.data.stores.fetching import FetchError, keep_part, version_number
from fcmae.data.stores.remote_file import open_remote
from fcmae.data.stores.urls import shown
from fcmae.wording import counted

BLOCK = 512
CLASS = ".cls"
KEPT = 2**20
"""Bytes of a file in a tar behind a URL that are read on the way to the next one."""
ZEROS = bytes(BLOCK)
METHODS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd"}
PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
UTF8, ENCRYPTED, SIZES_FOLLOW = 0x800, 0x1, 0x8
"""Flags of a zip member."""


def members(path: str, survey: Survey, access: Access | None = None) -> Iterator[Found]:
    """The regular files of an archive, as far as it is whole; the survey names what is not.

    Of an archive behind a URL (``access``) a tar is read from its start to its end, of a zip the list at its end.

    Names are made relative: no ``..``, no ``/`` in front. They are only ever names.
    """
    is_zip = shown(path).lower().endswith(".zip")
    if access is None:
        with open(path, "rb") as file:
            yield from (_of_zip if is_zip else _of_tar)(file, path, survey)
    elif is_zip:
        with open_remote(path, access) as file:
            yield from _of_zip(file, path, survey)
    else:
        yield from _of_remote_tar(path, survey, access)


def _of_remote_tar(path: str, survey: Survey, access: Access) -> Iterator[Found]:
    """What is small is read on the way, and its images go into the cache at once; what is large is passed over."""
    with AheadFile(path, access) as file:
        size, version = file.size, str(version_number(file.version))
        for found in _of_tar(cast(BinaryIO, file), path, survey):
            if access.cache.limit and found.size <= KEPT and (_is_image(found.name) or found.name.endswith(CLASS)):
                file.seek(found.offset)
                keep_part(path, access, found.offset, file.read(found.size), size, version)
            yield found


def plain_name(name: str) -> str:
    """``./a//b.jpg``, ``/a/b.jpg`` and ``../a/b.jpg`` are ``a/b.jpg``."""
    return posixpath.normpath(f"/{name}").lstrip("/")


def _is_image(name: str) -> bool:
    return ending_of(name) in EXTENSIONS


def _of_tar(file: BinaryIO, path: str, survey: Survey) -> Iterator[Found]:
    count = 0
    try:
        for found in _headers(file, path, survey):
            count += 1
            yield found
    except (tarfile.TarError, ValueError, ArithmeticError, RecursionError) as error:
        reason = "truncated" if "unexpected end" in str(error) else " ".join(str(error).split())
        survey.damaged[shown(path)] = f"{reason}; {counted(count, 'file')} found"


def _headers(file: BinaryIO, path: str, survey: Survey) -> Iterator[Found]:
    size = file.seek(0, os.SEEK_END)
    at, tar = 0, None
    while True:
        file.seek(at)
        block = file.read(BLOCK)
        if at == 0 and block.startswith(PACKED):
            raise ValueError("compressed as a whole, so no file in it can be read alone")
        if (simple := _simple_file(block)) is not None:
            name, length = simple
            found: Found | None = Found(plain_name(name), at + BLOCK, length, length, IN_TAR)
            after = at + BLOCK + -(-length // BLOCK) * BLOCK
        elif block == ZEROS:
            return
        elif len(block) < BLOCK:
            raise ValueError("truncated")
        else:
            file.seek(at)
            if tar is None:
                tar = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")
                file.seek(at)
            tar.offset = at
            try:
                member = tarfile.TarInfo.fromtarfile(tar)
            except tarfile.HeaderError as error:
                raise ValueError("truncated" if "truncated" in str(error) else f"damaged at byte {at}") from None
            found = _other_file(member, path, survey)
            after = tar.offset
        if after <= at:
            raise ValueError(f"damaged at byte {at}")
        if found is not None:
            if found.offset + found.size > size:
                raise ValueError("truncated")
            yield found
        at = after


def _simple_file(block: bytes) -> tuple[str, int] | None:
    """Name and size in a header of the commonest kind, a regular file that one block describes; None for others.

    tarfile reads all kinds, and takes five times as long.
    """
    octal = block[124:136].rstrip(b" \0")
    checksum = block[148:156].rstrip(b" \0")
    if block[156:157] not in b"0" or not octal.isdigit() or not checksum.isdigit():
        return None
    if int(checksum, 8) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        return None
    name, prefix = block[:100].rstrip(b"\0"), block[345:500].rstrip(b"\0")
    if b"\0" in name or b"\0" in prefix or name.endswith(b"/") or (prefix and block[257:265] != b"ustar\00000"):
        return None
    return os.fsdecode(prefix + b"/" + name if prefix else name), int(octal, 8)


def _other_file(member: tarfile.TarInfo, path: str, survey: Survey) -> Found | None:
    name = plain_name(member.name)
    if member.isreg() and not member.issparse():
        return Found(name, member.offset_data, member.size, member.size, IN_TAR)
    if not member.isdir():
        _refuse(
            path, name, "a sparse file" if member.issparse() else "a link" if member.linkname else "a device", survey
        )
    return None


def _of_zip(file: BinaryIO, path: str, survey: Survey) -> Iterator[Found]:
    size = file.seek(0, os.SEEK_END)
    lost = 0
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    # what zipfile raises for a damaged list: names that are no text are a ValueError, a version from the future is not
    # implemented. The members before it are looked for, and the damage is named.
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        if isinstance(error.__context__, FetchError):  # zipfile says so of whatever went wrong
            raise error.__context__ from None
        file.seek(0)
        infos = list(_whole(file, size))
        reason = "truncated: its list of files is at its end" if infos else " ".join(str(error).split())
        survey.damaged[shown(path)] = f"{reason}; {counted(len(infos), 'file')} found"
    for info in infos:
        name, mode = plain_name(_name_of(info)), info.external_attr >> 16
        refused = None
        if info.is_dir():
            continue
        if info.flag_bits & ENCRYPTED:
            refused = "encrypted"
        elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            refused = "a link" if stat.S_ISLNK(mode) else "no regular file"
        elif info.compress_type not in (STORED, DEFLATED):
            method = METHODS.get(info.compress_type, f"method {info.compress_type}")
            refused = f"compressed by {method}, which is not read; deflate is"
        elif info.header_offset + info.compress_size > size:
            lost += 1
            continue
        if refused is None:
            yield Found(name, info.header_offset, info.compress_size, info.file_size, info.compress_type, info.CRC)
        else:
            _refuse(path, name, refused, survey)
    if lost:
        survey.damaged[shown(path)] = f"truncated; missing: {lost:,} of its {counted(len(infos), 'file')}"


def _whole(file: BinaryIO, size: int) -> Iterator[zipfile.ZipInfo]:
    """The files of a zip without its list, by their own headers, as long as these tell where the next one is."""
    at = 0
    while len(header := file.read(LOCAL_HEADER.size)) == LOCAL_HEADER.size:
        signature, flags, method, crc, stored, length, name, extra = LOCAL_HEADER.unpack(header)
        at += LOCAL_HEADER.size + name + extra + stored
        if signature != b"PK\3\4" or flags & SIZES_FOLLOW or 0xFFFFFFFF in (stored, length) or at > size:
            return
        raw = file.read(name)
        info = zipfile.ZipInfo(raw.decode("utf-8" if flags & UTF8 else "cp437", errors="surrogateescape") or "?")
        info.flag_bits, info.compress_type, info.CRC = flags, method, crc
        info.compress_size, info.file_size = stored, length
        info.header_offset = at - stored - extra - name - LOCAL_HEADER.size
        yield info
        file.seek(at)


def _refuse(path: str, name: str, why: str, survey: Survey) -> None:
    if not _is_image(name):
        return
    survey.refuse(f"{shown(path)}/{name}", why)


def _name_of(info: zipfile.ZipInfo) -> str:
    """Without the flag for UTF-8 a name is in the code page of the system that wrote it, most often UTF-8 too."""
    if info.flag_bits & UTF8 or info.filename.isascii():
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:
        return info.filename
