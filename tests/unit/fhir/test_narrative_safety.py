"""Narrative that a browser would run is refused; plain XHTML is not."""

import pytest

from fhir_bridge.fhir.narrative import check_narrative, is_blank
from fhir_bridge.fhir.validate import validate_r4
from tests.unit.fhir.fhir_samples import errors, flags, patient


def div(inner: str) -> str:
    return f'<div xmlns="http://www.w3.org/1999/xhtml">{inner}</div>'


HARMLESS = [
    "text",
    "<p>a &amp; b &#160; <b>c</b></p>",
    '<a href="http://x.example">x</a>',
    '<a href="#part">x</a><a name="part"/>',
    '<a href="Patient/1">x</a>',
    '<img src="data:image/png;base64,QQ==" alt="x"/>',
    '<img src="#pic" alt="x"/>',
    '<table class="grid"><tbody><tr><td colspan="2" style="color: red">x</td></tr></tbody></table>',
    '<span title="a:b" lang="en" xml:lang="en" id="x">x</span>',
]

ACTIVE = [
    "<script>alert(1)</script>",
    "<SCRIPT>alert(1)</SCRIPT>",
    '<img src="x" onerror="alert(1)"/>',
    '<p ONCLICK="x">x</p>',
    '<a href="javascript:alert(1)">x</a>',
    '<a href="JaVaScRiPt:alert(1)">x</a>',
    '<a href=" &#9;java&#10;script:alert(1)">x</a>',
    '<a href="vbscript:x">x</a>',
    '<a href="data:text/html;base64,QQ==">x</a>',
    '<img src="data:image/svg+xml;base64,QQ=="/>',
    '<iframe src="http://x.example"/>',
    '<object data="x"/>',
    '<form action="x"><input name="y"/></form>',
    "<style>p {}</style>",
    '<link rel="stylesheet" href="x"/>',
    '<p style="width: expression(alert(1))">x</p>',
    '<p style="background: url(http://x.example)">x</p>',
    '<p style="background: u\\72l(http://x.example)">x</p>',
    '<svg xmlns="http://www.w3.org/2000/svg"><a/></svg>',
    '<p xmlns="http://www.w3.org/2000/svg">x</p>',
    "<?php x ?>",
    '<meta http-equiv="refresh" content="0"/>',
]


@pytest.mark.parametrize("inner", HARMLESS)
def test_plain_xhtml_passes(inner: str) -> None:
    assert check_narrative(div(inner)) is None


@pytest.mark.parametrize("inner", ACTIVE)
def test_active_content_is_a_matter_of_security(inner: str) -> None:
    problem = check_narrative(div(inner))
    assert problem is not None
    assert problem.code == "security"


def test_entities_are_never_expanded() -> None:
    lol = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 12))
    text = f'<!DOCTYPE div [<!ENTITY l0 "ha">{lol}]>' + div("&l11;")
    problem = check_narrative(text)
    assert problem is not None
    assert problem.code == "security"
    problem = check_narrative('<!DOCTYPE div SYSTEM "file:///etc/hostname">' + div("x"))
    assert problem is not None
    assert problem.code == "security"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (div("<p>x"), "structure"),
        (div("&nbsp;"), "structure"),
        (div('<a href="&#1;javascript:alert(1)">x</a>'), "structure"),
        ("plain", "structure"),
        (div("x") + div("y"), "structure"),
        ("<div>x</div>", "invariant"),
        ('<p xmlns="http://www.w3.org/1999/xhtml">x</p>', "invariant"),
        (div("<blink>x</blink>"), "invariant"),
        (div('<p data-x="y">x</p>'), "invariant"),
        (div("<P>x</P>"), "invariant"),
    ],
)
def test_what_is_not_plain_xhtml_is_refused(text: str, code: str) -> None:
    problem = check_narrative(text)
    assert problem is not None
    assert problem.code == code


def test_active_content_wins_over_bad_form() -> None:
    problem = check_narrative(div("<script>x</script><p>"))
    assert problem is not None
    assert problem.code == "security"


@pytest.mark.parametrize(
    ("inner", "blank"), [("", True), ("<p> \n</p>", True), ("x", False), ('<img src="x"/>', False)]
)
def test_blank_narrative_is_told(inner: str, blank: bool) -> None:
    assert is_blank(div(inner)) is blank


def test_the_place_of_a_bad_narrative_is_told() -> None:
    def with_text(inner: str) -> dict[str, str]:
        return {"status": "generated", "div": div(inner)}

    bad = patient(text=with_text("<script>Zzcanary</script>"))
    assert errors(validate_r4(bad)) == {("security", "Patient.text.div")}
    assert "anary" not in repr(validate_r4(bad))
    assert flags(validate_r4(patient(text=with_text(" ")))) == {("invariant", "Patient.text.div")}
