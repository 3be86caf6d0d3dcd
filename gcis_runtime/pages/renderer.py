"""Render HTML templates, and check that the packages for it are installed."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gcis_runtime.errors import GcisError
from gcis_runtime.system.atomic_files import replacing

if TYPE_CHECKING:
    import jinja2
    from PIL import Image

_QUALITIES = (84, 70, 55, 40, 25)
NOTICE = "Research software, not a medical device. Its results are not for diagnosis or treatment."


def check_renderer() -> None:
    """Raise GcisError if jinja2, which renders pages, is not installed."""
    if importlib.util.find_spec("jinja2") is None:
        raise GcisError(
            "the report cannot be rendered",
            received="an environment without jinja2",
            expected="the extra `report`",
            fix='Run pip install "gcis[report]".',
        )


def make_renderer(package: str) -> jinja2.Environment:
    """Return the environment for the folder `templates` of a package: text is escaped, names must exist."""
    import jinja2  # noqa: PLC0415 (of the extra `report`)

    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render_page(template: str, **values: Any) -> str:
    """Render a page of this package.

    The page's security policy permits its own style sheet and pictures inside the page: no scripts and no
    requests.

    Args:
        template: File name of the template.
        values: Values for the template.

    Raises:
        GcisError: jinja2 is not installed.
    """
    check_renderer()
    renderer = make_renderer("gcis_runtime.pages")
    style = renderer.get_template("style.css.j2").render()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return renderer.get_template(template).render(
        style=style,
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'",
        notice=NOTICE,
        gcis=version("gcis"),
        **values,
    )


def write_page(path: Path, text: str) -> None:
    """Write a page as UTF-8, atomically.

    Raises:
        OutputError: The file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def data_uri(picture: Image.Image, *, limit: int) -> str:
    """Return a picture as a JPEG data URI; colours keep their full resolution, for thin outlines.

    Args:
        picture: The picture.
        limit: Characters that the address should not exceed; the quality is reduced for it, within reason.
    """
    for quality in _QUALITIES:
        data = io.BytesIO()
        picture.save(data, format="JPEG", quality=quality, subsampling=0, optimize=True)
        text = base64.b64encode(data.getvalue()).decode()
        if len(text) <= limit:
            break
    return f"data:image/jpeg;base64,{text}"
