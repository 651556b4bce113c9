"""Zip archives that are checked as a whole before a member is read.

Nothing is ever unpacked to disk, but a file with a member that would leave its folder, or with two
of one name, is made to be read differently by different programs.
"""

import zipfile

from jaxdl.errors import UserError

_MAX_RATIO = 100  # weights hardly compress; a bomb expands a thousandfold
_SMALL = 2**24  # bytes that any archive may expand to: zeros in a small file are no attack
_HEADER = 30  # bytes before the name in a member's own header


def check_archive(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse an archive that was not made to hold weights.

    Args:
        archive: any.
        size: of the file, in bytes.

    Raises:
        UserError: names that clash or leave the archive, members that overlap, or contents that are
            absurdly larger than the file.
        zipfile.BadZipFile: a member's own header is not what the directory says.
        RuntimeError: a member is encrypted.
    """
    members = archive.infolist()
    seen = set()
    for member in members:
        name = member.filename
        if name in seen:
            raise UserError(f"has two members named {name}")
        seen.add(name)
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise UserError(f"has a member named {name}, outside the archive")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(f"compresses its member {name} in an unusual way")

    end = 0
    for member in sorted(members, key=lambda m: m.header_offset):
        if member.header_offset < end:
            raise UserError(f"has a member that overlaps another, {member.filename}")
        end = member.header_offset + _HEADER + len(member.filename) + member.compress_size
    if end > archive.start_dir:
        raise UserError("has a member that overlaps the directory")

    for member in members:
        with archive.open(member):
            pass  # raises where the member's own header says something else

    if sum(m.file_size for m in members) > max(_MAX_RATIO * size, _SMALL):
        raise UserError(f"its {size} bytes expand more than {_MAX_RATIO} times")


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The contents of a member, no more bytes than the directory says."""
    member = archive.getinfo(name)
    with archive.open(member) as handle:
        # Without a limit, what is expanded is bounded by nothing that was checked.
        return handle.read(member.file_size)
