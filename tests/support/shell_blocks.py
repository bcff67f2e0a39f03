"""The shell commands in the documents, as a test can run them."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from backup_tasks.common.paths import PROJECT_ROOT

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the heading that it stands under."""

    language: str
    text: str
    heading: str


def read_blocks(document: str) -> list[Block]:
    """All fenced blocks of a document, in their order."""
    text = (PROJECT_ROOT / document).read_text(encoding="utf-8")
    blocks = []
    for match in _FENCE.finditer(text):
        # A comment in a shell block looks like a heading: leave earlier blocks out.
        above = _HEADING.findall(_FENCE.sub("", text[: match.start()]))
        blocks.append(Block(match[1], match[2], above[-1] if above else ""))
    return blocks


_AWS = '''\
#!{python}
"""What docs/recovery.md needs of the AWS command, which the tests do without: by boto3."""
import sys
from urllib.parse import urlsplit

import boto3

client = boto3.client("s3")
match sys.argv[1:]:
    case ["s3", "ls", url]:
        place = urlsplit(url)
        found = client.list_objects_v2(Bucket=place.netloc, Prefix=place.path.lstrip("/"))
        for item in found.get("Contents", []):
            name = item["Key"].rpartition("/")[2]
            print(f"{{item['LastModified']:%Y-%m-%d %H:%M:%S}} {{item['Size']:>10}} {{name}}")
    case ["s3", "cp", url, target]:
        place = urlsplit(url)
        body = client.get_object(Bucket=place.netloc, Key=place.path.lstrip("/"))["Body"]
        with open(1 if target == "-" else target, "wb") as out:
            for piece in body.iter_chunks(2**20):
                out.write(piece)
    case words:
        sys.exit(f"this stand-in for aws does not know: {{words}}")
'''


def write_aws(folder: Path) -> None:
    """Put a program `aws` into the folder. It takes its keys and server from AWS_* variables."""
    program = folder / "aws"
    program.write_text(_AWS.format(python=sys.executable))
    program.chmod(0o755)
