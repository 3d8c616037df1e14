"""Tell whether a code is written in the Unified Code for Units of Measure (case sensitive form).

For data-quality flags: a quantity that claims UCUM but is not cannot be converted or compared. Grammar and atoms
follow the specification, https://ucum.org/ucum version 2.1, sections 2 to 4; only the spelling is judged, not the
dimension. Blanks are let through inside an annotation, since HL7's own list of units has them.
"""

from __future__ import annotations

import re
from functools import lru_cache

UCUM = "http://unitsofmeasure.org"

_PREFIXES = "Y Z E P T G M k h da d c m u n p f a z y Ki Mi Gi Ti".split()  # noqa: SIM905 - reads as the table does

# Atoms that take a prefix: base units, SI units and the others marked metric in the tables.
_METRIC_TEXT = """
    m s g rad K C cd mol sr Hz N Pa J W A V F Ohm S Wb Cel T H lm lx Bq Gy Sv l L ar t bar u eV pc [c] [h] [k]
    [eps_0] [mu_0] [e] [m_e] [m_p] [G] [g] [ly] gf Kay Gal dyn erg P Bi St Mx G Oe Gb sb Lmb ph Ci R RAD REM
    cal_[15] cal_[20] cal_m cal_IT cal_th cal tex m[H2O] m[Hg] eq osm g% kat U [iU] [IU] Np B B[SPL] B[V] B[mV]
    B[uV] B[10.nV] B[W] B[kW] st mho bit By Bd [BAU]
"""
_PLAIN_TEXT = """
    10* 10^ [pi] % [ppth] [ppm] [ppb] [pptr] gon deg ' '' min h d a_t a_j a_g a wk mo_s mo_j mo_g mo AU [lbf_av]
    [in_i] [ft_i] [yd_i] [mi_i] [fth_i] [rd_i] [nmi_i] [kn_i] [sin_i] [sft_i] [syd_i] [cin_i] [cft_i] [cyd_i]
    [bf_i] [cr_i] [mil_i] [cml_i] [hd_i] [ft_us] [yd_us] [in_us] [rd_us] [ch_us] [lk_us] [rch_us] [rlk_us]
    [fth_us] [fur_us] [mi_us] [acr_us] [srd_us] [smi_us] [sct] [twp] [mil_us] [in_br] [ft_br] [rd_br] [ch_br]
    [lk_br] [fth_br] [pc_br] [yd_br] [mi_br] [nmi_br] [kn_br] [acr_br] [gal_us] [bbl_us] [qt_us] [pt_us]
    [gil_us] [foz_us] [fdr_us] [min_us] [crd_us] [bu_us] [gal_wi] [pk_us] [dqt_us] [dpt_us] [tbs_us] [tsp_us]
    [cup_us] [foz_m] [cup_m] [tsp_m] [tbs_m] [gal_br] [pk_br] [bu_br] [qt_br] [pt_br] [gil_br] [foz_br] [fdr_br]
    [min_br] [gr] [lb_av] [oz_av] [dr_av] [scwt_av] [lcwt_av] [ston_av] [lton_av] [stone_av] [pwt_tr] [oz_tr]
    [lb_tr] [sc_ap] [dr_ap] [oz_ap] [lb_ap] [oz_m] [lne] [pnt] [pca] [pnt_pr] [pca_pr] [pied] [pouce] [ligne]
    [didot] [cicero] [degF] [degR] [degRe] [Cal] [Btu_39] [Btu_59] [Btu_60] [Btu_m] [Btu_IT] [Btu_th] [Btu] [HP]
    [den] [in_i'H2O] [in_i'Hg] [PRU] [wood'U] [diop] [p'diop] %[slope] [mesh_i] [Ch] [drp] [hnsf'U] [MET]
    [hp'_X] [hp'_C] [hp'_M] [hp'_Q] [hp_X] [hp_C] [hp_M] [hp_Q] [kp_X] [kp_C] [kp_M] [kp_Q] [pH] [S] [HPF] [LPF]
    [arb'U] [USP'U] [GPL'U] [MPL'U] [APL'U] [beth'U] [anti'Xa'U] [todd'U] [dye'U] [smgy'U] [bdsk'U] [ka'U]
    [knk'U] [mclg'U] [tb'U] [CCID_50] [TCID_50] [EID_50] [PFU] [FFU] [CFU] [IR] [AU] [Amb'a'1'U] [PNU] [Lf]
    [D'ag'U] [FEU] [ELU] [EU] Ao b att atm [psi] circ sph [car_m] [car_Au] [smoot] [m/s2/Hz^0.5] bit_s [NTU]
    [FNU]
"""
_METRIC = frozenset(_METRIC_TEXT.split())
_ATOMS = _METRIC | frozenset(_PLAIN_TEXT.split()) | {p + a for p in _PREFIXES for a in _METRIC}

_ANNOTATION = r"\{[\x20-\x7a\x7c\x7e]*\}"
_COMPONENT = re.compile(
    rf"(?P<note>{_ANNOTATION})"
    r"|(?P<atom>10[*^]|(?:[A-Za-z_%'\"]|\[[^\[\]\s{}]+\])+)(?P<power>[+-]?[0-9]+)?" + rf"(?:{_ANNOTATION})?"
    rf"|(?P<factor>[0-9]+)(?:{_ANNOTATION})?"
)
_NOTE = re.compile(_ANNOTATION)
# Deeper or longer than any unit that has a meaning; keeps a hostile code cheap.
_MAX_CHARS = 128


@lru_cache(maxsize=4096)
def is_ucum(code: str) -> bool:
    """Tell whether ``code`` is a valid UCUM expression, such as ``mm[Hg]``, ``10*3/uL`` or ``{score}``."""
    if not code or len(code) > _MAX_CHARS:
        return False
    return _term(code, 1 if code[0] == "/" else 0) == len(code)


def _term(code: str, at: int) -> int:
    """Read ``component ((. | /) component)*`` from ``at``; return where it ends, or -1."""
    while True:
        at = _component(code, at)
        if at < 0 or at >= len(code) or code[at] not in "./":
            return at
        at += 1


def _component(code: str, at: int) -> int:
    if code[at : at + 1] == "(":
        end = _term(code, at + 1)
        if not 0 <= end < len(code) or code[end] != ")":
            return -1
        note = _NOTE.match(code, end + 1)
        return note.end() if note else end + 1
    match = _COMPONENT.match(code, at)
    if match is None or (match["atom"] is not None and match["atom"] not in _ATOMS):
        return -1
    return match.end()
