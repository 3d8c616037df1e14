"""What a package is, which of its profiles judge a record, and what is said not to be judged."""

import io
import json
import re
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from fhir_bridge.errors import ProfileBroken
from fhir_bridge.fhir.profiles import Choice, Profiles, load_profiles
from fhir_bridge.fhir.profiles.compile import ProfileCompiler
from fhir_bridge.fhir.profiles.expansion import Terms
from fhir_bridge.fhir.profiles.packages import read_package
from fhir_bridge.fhir.profiles.values import Item
from fhir_bridge.fhir.run import MAX_ISSUES, Run
from fhir_bridge.fhir.tables import r4
from tests.unit.fhir.profile_samples import (
    BASE,
    HL7,
    MANIFEST,
    archive_of,
    extension,
    folder_of,
    loaded,
    profile,
    told,
    url,
    value_set,
)

Json = dict[str, Any]
NAMED = profile("Patient", {"path": "Patient.name", "min": 1})
MAX_SET = "elementdefinition-maxValueSet"
NOBODY: Json = {"resourceType": "Patient", "active": True}


def claiming(*profiles: str, **more: Any) -> Json:
    return NOBODY | {"meta": {"profile": list(profiles)}} | more


def test_an_archive_and_the_folder_of_its_files_are_the_same_package(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "folder", [NAMED, value_set("some", {"include": []})])
    one, other = read_package(folder), read_package(archive_of(folder, tmp_path / "package.tgz"))
    assert one == other
    assert one.name == "example.profiles#1.0.0"
    assert set(one.definitions["StructureDefinition"]) == {url("p")}


@pytest.mark.parametrize(
    ("files", "told_as"),
    [
        ({}, "holds no StructureDefinition"),
        ({"a.json": '{"resourceType":"StructureDefinition","url":"u","url":"u"}'}, "a.json: not strict JSON"),
        ({"a.json": json.dumps(NAMED), "b.json": json.dumps(NAMED)}, "b.json defines http://example.org"),
        ({"a.json": json.dumps(NAMED), "package.json": '{"name":"n","fhirVersions":["5.0.0"]}'}, "is for FHIR 5.0.0"),
    ],
)
def test_a_package_that_cannot_be_read_says_which_file(tmp_path: Path, files: dict[str, str], told_as: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ProfileBroken, match=told_as):
        read_package(tmp_path)


def test_what_is_no_archive_and_what_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "package.tgz").write_bytes(b"\x1f\x8b no gzip")
    with pytest.raises(ProfileBroken, match=r"package\.tgz is no package"):
        read_package(tmp_path / "package.tgz")
    with pytest.raises(ProfileBroken, match="there is no package at"):
        read_package(tmp_path / "absent.tgz")


@pytest.mark.parametrize(
    ("definition", "told_as"),
    [
        (
            profile("Patient", baseDefinition=url("absent"), differential={"element": [{"path": "Patient"}]}),
            "not loaded",
        ),
        (profile("Patient", differential={}), "neither a snapshot nor a differential"),
        (profile("Patient", {"path": "Observation.status", "min": 1}), "is not one of Patient"),
        (profile("Nobody"), "R4 does not have"),
    ],
)
def test_a_profile_that_cannot_be_compiled_is_refused(tmp_path: Path, definition: Json, told_as: str) -> None:
    definition.setdefault("differential", {"element": [{"path": definition["type"]}]})
    if definition["type"] == "Nobody":
        definition["differential"] = {"element": [{"path": "Nobody"}]}
    with pytest.raises(ProfileBroken, match=told_as):
        loaded(tmp_path, definition)


def test_a_profile_that_is_chosen_must_be_in_the_package(tmp_path: Path) -> None:
    with pytest.raises(ProfileBroken, match="holds no profile"):
        loaded(tmp_path, NAMED, always=("absent",))


# --- which records are judged


def test_a_record_is_judged_by_what_it_claims(tmp_path: Path) -> None:
    profiles = loaded(tmp_path, NAMED, always=None)
    assert profiles.judge(NOBODY) == []
    assert told(profiles.judge(claiming(url("p")))) == [("error", "Patient.name")]
    assert told(profiles.judge(claiming(url("p") + "|1.0.0"))) == [("error", "Patient.name")]


def test_a_claim_of_the_package_that_it_does_not_hold_is_flagged(tmp_path: Path) -> None:
    profiles = loaded(tmp_path, NAMED, always=None)
    for claim in (url("other"), url("p") + "|2.0.0"):
        found = profiles.judge(claiming("http://elsewhere.example.org/p", claim))
        assert told(found) == [("warning", "Patient.meta.profile[1]")]
        assert claim not in found[0].diagnostics


def test_a_claim_of_another_types_profile_is_an_error(tmp_path: Path) -> None:
    profiles = loaded(tmp_path, NAMED, always=None)
    group = {"resourceType": "Basic", "code": {"text": "a"}, "meta": {"profile": [url("p")]}}
    assert told(profiles.judge(group)) == [("error", "Basic")]


def test_records_of_the_type_are_judged_whatever_they_claim(tmp_path: Path) -> None:
    profiles = loaded(tmp_path, NAMED)
    assert told(profiles.judge(NOBODY)) == [("error", "Patient.name")]
    assert profiles.judge({"resourceType": "Basic", "code": {"text": "a"}}) == []


def test_contained_records_are_judged_by_what_they_claim_and_entries_like_records(tmp_path: Path) -> None:
    profiles = loaded(tmp_path, NAMED, always=None)
    basic = {"resourceType": "Basic", "code": {"text": "a"}, "contained": [claiming(url("p"), id="c")]}
    assert told(profiles.judge(basic)) == [("error", "Basic.contained[0].name")]
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": claiming(url("p"))}]}
    assert told(profiles.judge(bundle)) == [("error", "Bundle.entry[0].resource.name")]


def test_as_warnings_the_same_findings_refuse_nothing(tmp_path: Path) -> None:
    assert told(loaded(tmp_path, NAMED, severity="warning").judge(NOBODY)) == [("warning", "Patient.name")]


def test_two_choices_are_judged_one_after_the_other(tmp_path: Path) -> None:
    one = folder_of(tmp_path / "one", [NAMED])
    other = folder_of(tmp_path / "other", [profile("Patient", {"path": "Patient.gender", "min": 1}, name="q")])
    choices = [Choice(one, (), "error", (url("p"),)), Choice(other, (), "warning", (url("q"),))]
    assert told(load_profiles(choices).judge(NOBODY)) == [("error", "Patient.name"), ("warning", "Patient.gender")]


def test_a_hostile_record_gets_no_more_findings_than_a_sender_can_read(tmp_path: Path) -> None:
    colour = extension("colour", {"path": "Extension.value[x]", "min": 1})
    profiles = loaded(tmp_path, NAMED, colour, always=None)
    claims = [*(url(f"other-{number}") for number in range(2_000)), url("p")]
    empty = {"url": url("colour"), "extension": [{"url": "a", "valueCode": "a"}]}
    found = profiles.judge(claiming(*claims, url("p"), extension=[empty] * 2_000))
    assert len(found) == MAX_ISSUES
    assert ("error", "Patient.name") in told(found)
    held = [claiming(url("p"), id=f"c{number}") for number in range(2_000)]
    found = profiles.judge({"resourceType": "Basic", "code": {"text": "a"}, "contained": held})
    assert len(found) == MAX_ISSUES


def test_resources_inside_another_find_no_more_than_a_sender_can_read(tmp_path: Path) -> None:
    inside = {"path": "Patient.contained", "type": [{"code": "Resource", "profile": [url("q")]}]}
    both = profile("Patient", {"path": "Patient.name", "min": 1}, {"path": "Patient.gender", "min": 1}, name="q")
    compiler = ProfileCompiler(r4(), {url("p"): profile("Patient", inside), url("q"): both}, Terms({}, {}, r4()))
    record = NOBODY | {"contained": [{"resourceType": "Patient", "id": f"c{at}"} for at in range(MAX_ISSUES)]}
    run = Run(record, r4().element_names())
    compiler.profile(url("p"))(Item(record, None, (None, "Patient"), "Patient"), run)
    assert (len(run.issues), run.found) == (MAX_ISSUES, 2 * MAX_ISSUES)


def test_twice_as_much_in_a_record_is_twice_the_work(tmp_path: Path) -> None:
    colour = extension("colour", {"path": "Extension.value[x]", "min": 1})
    profiles = loaded(tmp_path, profile("Patient", {"path": "Patient.active", "min": 1}), colour, always=None)

    def calls(size: int) -> int:
        count, held = 0, [claiming(url("p"), id=f"c{at}") for at in range(size)]
        record = claiming(url("p"), contained=held, extension=[{"url": url("colour"), "valueCode": "a"}] * size)

        def counting(_frame: object, _event: str, _argument: object) -> None:
            nonlocal count
            count += 1

        sys.setprofile(counting)
        try:
            found = profiles.judge(record)
        finally:
            sys.setprofile(None)
        assert found == []
        return count

    assert calls(200) < 2.5 * calls(100)


def test_a_profile_that_is_claimed_twice_is_told_once(tmp_path: Path) -> None:
    profiles = loaded(tmp_path, NAMED, always=None)
    assert len(profiles.judge(claiming(url("p"), url("p")))) == 1
    assert len(profiles.judge(claiming(url("p"), f"{url('p')}|1.0.0"))) == 1


def test_a_profile_whose_type_is_itself_is_judged_once(tmp_path: Path) -> None:
    itself = {"path": "CodeableConcept", "type": [{"code": "CodeableConcept", "profile": [url("q")]}]}
    concept = profile("CodeableConcept", itself, {"path": "CodeableConcept.text", "min": 1}, name="q")
    status = {"path": "Patient.maritalStatus", "type": [{"code": "CodeableConcept", "profile": [url("q")]}]}
    profiles = loaded(tmp_path, concept, profile("Patient", status))
    found = profiles.judge(NOBODY | {"maritalStatus": {"coding": [{"code": "M"}]}})
    assert told(found) == [("error", "Patient.maritalStatus.text")]


# --- what is not judged is said


@pytest.mark.parametrize(
    ("element", "note"),
    [
        (
            {
                "path": "Patient.maritalStatus",
                "binding": {"strength": "required", "valueSet": "http://a.example.org/vs"},
            },
            "required bindings to http://a.example.org/vs are not judged: .*no package that is loaded",
        ),
        (
            {
                "path": "Patient",
                "constraint": [{"key": "x-1", "severity": "error", "human": "", "expression": "name.memberOf('a')"}],
            },
            "the invariant x-1 is not judged: function memberOf",
        ),
        (
            {"path": "Patient.name", "type": [{"code": "HumanName", "profile": ["http://a.example.org/name"]}]},
            "values of the profile http://a.example.org/name are not judged: it is not loaded",
        ),
        (
            {
                "path": "Patient.managingOrganization",
                "type": [{"code": "Reference", "targetProfile": ["http://a.example.org/organization"]}],
            },
            "some references are not judged",
        ),
        ({"path": "Patient.nothing", "min": 1}, "what is said of nothing is not judged: Patient has no such element"),
        (
            {"path": "Patient", "constraint": [{"key": "x-1", "severity": "error", "human": "a name"}]},
            "the invariant x-1 is not judged: it has no FHIRPath",
        ),
        (
            {"path": "Patient.language", "binding": {"strength": "preferred", "extension": [{"url": HL7 + MAX_SET}]}},
            "maximum and additional value sets are not judged",
        ),
        (
            {"path": "Patient.extension.value[x]", "minValueQuantity": {"value": 1, "unit": "kg"}},
            "limits of quantities in another unit are not judged: units are not converted",
        ),
        (
            {
                "path": "Patient.name",
                "constraint": [
                    {
                        "key": "x-1",
                        "severity": "error",
                        "human": "",
                        "expression": "family.first().extension('a').empty()",
                    }
                ],
            },
            "the invariant x-1 is not judged: extensions of a value that is not named by its element",
        ),
        (
            {
                "path": "Patient",
                "constraint": [
                    {"key": "x-1", "severity": "error", "human": "", "expression": "id.matches('\\\\p{L}+')"}
                ],
            },
            "the invariant x-1 is not judged: a pattern that cannot be read here",
        ),
        (
            {
                "path": "Patient",
                "constraint": [
                    {"key": "x-1", "severity": "error", "human": "", "expression": "id.matches('^(a+)+$')"}
                ],
            },
            "the invariant x-1 is not judged: a pattern that a text can make costly",
        ),
        (
            {
                "path": "Patient",
                "constraint": [
                    {"key": "x-1", "severity": "error", "human": "", "expression": "id.matches(language)"}
                ],
            },
            "the invariant x-1 is not judged: a pattern that a record gives",
        ),
        (
            {
                "path": "Patient",
                "constraint": [
                    {"key": "x-1", "severity": "error", "human": "", "expression": "name.where().exists()"}
                ],
            },
            "the invariant x-1 is not judged: where lacks an argument",
        ),
        (
            {"path": "Patient.contained", "type": [{"code": "Resource", "profile": ["http://a.example.org/p"]}]},
            "values of the profile http://a.example.org/p are not judged: it is not loaded",
        ),
        (
            {"path": "Patient.name:old", "sliceName": "old", "min": 1},
            "slices told by nothing are not judged: the profile gives no discriminator",
        ),
    ],
)
def test_what_cannot_be_judged_is_said_at_load_and_passes(tmp_path: Path, element: Json, note: str) -> None:
    profiles = loaded(tmp_path, profile("Patient", element))
    assert len(profiles.notes) == 1
    assert profiles.notes[0].startswith("example.profiles#1.0.0: ")
    assert re.search(note, profiles.notes[0])
    held = [{"resourceType": "Patient", "id": "b"}]
    some = {"id": "a", "name": [{"text": "Zz"}], "maritalStatus": {"text": "a"}, "contained": held}
    assert profiles.judge(NOBODY | some) == []


def test_what_another_package_defines_is_judged_when_it_is_named(tmp_path: Path) -> None:
    binding = {"strength": "required", "valueSet": f"{BASE}/ValueSet/some"}
    own = folder_of(tmp_path / "own", [profile("Patient", {"path": "Patient.language", "binding": binding})])
    listed = {"include": [{"system": "urn:ietf:bcp:47", "concept": [{"code": "de"}]}]}
    more = folder_of(tmp_path / "more", [value_set("some", listed)])
    alone = load_profiles([Choice(own, (), "error", (url("p"),))])
    both = load_profiles([Choice(own, (more,), "error", (url("p"),))])
    assert (len(alone.notes), both.notes) == (1, ())
    assert alone.judge(NOBODY | {"language": "en"}) == []
    assert told(both.judge(NOBODY | {"language": "en"})) == [("error", "Patient.language")]
    assert alone.digest != both.digest


def test_mustsupport_and_warnings_are_no_rules(tmp_path: Path) -> None:
    rule = {"key": "x-1", "severity": "warning", "human": "", "expression": "name.exists()"}
    element = {"path": "Patient", "mustSupport": True, "constraint": [rule]}
    profiles = loaded(tmp_path, profile("Patient", element))
    assert (profiles.notes, profiles.judge(NOBODY)) == ((), [])


# --- digests


def test_the_digest_covers_definitions_choice_and_mode_and_not_the_place(tmp_path: Path) -> None:
    def digest(
        name: str, definition: Json, severity: str = "error", urls: tuple[str, ...] | None = (url("p"),)
    ) -> bytes:
        return load_profiles([Choice(folder_of(tmp_path / name, [definition]), (), severity, urls)]).digest

    first = digest("a", NAMED)
    assert digest("b", NAMED) == first
    stricter = profile("Patient", {"path": "Patient.name", "min": 2})
    others = [digest("c", stricter), digest("d", NAMED, "warning"), digest("e", NAMED, urls=None)]
    assert len({first, *others}) == 4


def test_a_manifest_is_not_needed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "plain", [NAMED])
    (folder / "package.json").unlink()
    assert read_package(folder).name == "plain"
    assert MANIFEST["name"] not in read_package(folder).name


def test_a_snapshot_says_the_same_as_the_differential(tmp_path: Path) -> None:
    """A snapshot repeats the base, which is judged already: of it nothing more may be found."""
    whole = NAMED | {"snapshot": {"element": [
        {"id": "Patient", "path": "Patient", "min": 0, "max": "*"},
        {"id": "Patient.extension", "path": "Patient.extension", "min": 0, "max": "*",
         "type": [{"code": "Extension"}],
         "slicing": {"discriminator": [{"type": "value", "path": "url"}], "rules": "open"}},
        {"id": "Patient.name", "path": "Patient.name", "min": 1, "max": "*", "type": [{"code": "HumanName"}]},
        {"id": "Patient.gender", "path": "Patient.gender", "min": 0, "max": "1", "type": [{"code": "code"}],
         "binding": {"strength": "required", "valueSet": "http://hl7.org/fhir/ValueSet/administrative-gender|4.0.1"}},
    ]}, "baseDefinition": HL7 + "Patient"}  # fmt: skip
    del whole["differential"]

    def judged(profiles: Profiles) -> list[tuple[str, str]]:
        return told(profiles.judge(NOBODY | {"gender": "male"}))

    assert judged(loaded(tmp_path, whole)) == judged(loaded(tmp_path, NAMED)) == [("error", "Patient.name")]


@pytest.mark.parametrize(
    "broken",
    [
        {"kind": None},
        {"differential": {"element": ["Patient"]}},
        {"differential": {"element": [{"path": "Patient.name", "min": "a"}]}},
        {"differential": {"element": [{"path": "Patient.name", "max": "many"}]}},
        {"differential": {"element": [{"path": "Patient.name", "type": 1}]}},
        {"differential": {"element": [{"path": "Patient", "constraint": [1]}]}},
        {"differential": {"element": [{"path": "Patient" + ".name" * 9_000, "min": 1}]}},
        {"baseDefinition": url("p")},
    ],
)
def test_a_definition_that_is_none_is_told_by_its_url(tmp_path: Path, broken: Json) -> None:
    told_as = (
        f"{url('p')}, or what it refers to, is not formed|profile {url('p')} of a|{url('p')} is made from itself"
    )
    with pytest.raises(ProfileBroken, match=told_as):
        loaded(tmp_path, {**NAMED, **broken})


def test_a_folder_in_a_folder_is_left_alone_and_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "folder", [NAMED])
    (folder / "more.json").mkdir()
    assert set(read_package(folder).definitions["StructureDefinition"]) == {url("p")}
    (folder / "gone.json").symlink_to(folder / "nowhere.json")
    with pytest.raises(ProfileBroken, match="folder is no package"):
        read_package(folder)


@pytest.mark.parametrize(
    ("name", "size", "header"),
    [
        ("package/a.json", 5 << 20, {}),
        ("other/a.bin", 5 << 20, {}),
        ("package/a.json", 0, {"comment": "a" * (5 << 20)}),
    ],
)
def test_all_that_an_archive_holds_is_bounded(tmp_path: Path, name: str, size: int, header: dict[str, str]) -> None:
    folder = folder_of(tmp_path / "folder", [NAMED])
    archive = archive_of(folder, tmp_path / "package.tgz")
    assert read_package(archive, 1 << 20) == read_package(folder, 1 << 20)
    with tarfile.open(archive, "w:gz", format=tarfile.PAX_FORMAT, pax_headers=header) as made:
        entry = tarfile.TarInfo(name)
        entry.size = size
        made.addfile(entry, io.BytesIO(bytes(size)))
    with pytest.raises(ProfileBroken, match=r"package\.tgz holds more than"):
        read_package(archive, 1 << 20)
    (folder / "b.json").write_bytes(bytes(1 << 20))
    with pytest.raises(ProfileBroken, match=r"folder holds more than"):
        read_package(folder, 1 << 20)


def test_a_name_in_an_archive_that_is_no_text_is_a_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "package.tgz", "w:gz", format=tarfile.GNU_FORMAT) as made:
        entry, content = tarfile.TarInfo("package/\udcff.json"), json.dumps(NAMED).encode()
        entry.size = len(content)
        made.addfile(entry, io.BytesIO(content))
    assert set(read_package(tmp_path / "package.tgz").definitions["StructureDefinition"]) == {url("p")}


def test_the_digest_covers_what_the_manifest_says_is_the_packages_own(tmp_path: Path) -> None:
    one = read_package(folder_of(tmp_path / "one", [NAMED]))
    other = read_package(folder_of(tmp_path / "other", [NAMED], MANIFEST | {"canonical": "http://b.example.org"}))
    assert one.digest != other.digest
