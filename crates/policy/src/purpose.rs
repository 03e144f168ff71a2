//! Purposes of use: the HL7 ActReason codes below `PurposeOfUse`
//! (<http://terminology.hl7.org/CodeSystem/v3-ActReason>), in which a code covers those below it.

/// A purpose and all purposes above it, the nearest first. `None` when the code is not a purpose of use.
pub fn chain(code: &str) -> Option<Vec<&'static str>> {
    let mut next = Some(entry(code)?);
    let mut chain = Vec::new();
    while let Some((code, above)) = next {
        chain.push(*code);
        next = entry(above);
    }
    Some(chain)
}

/// Whether consent to `consented` covers a use for `asked`: the same code, or one below it.
pub fn covers(consented: &str, asked: &str) -> bool {
    chain(asked).is_some_and(|chain| chain.contains(&consented))
}

fn entry(code: &str) -> Option<&'static (&'static str, &'static str)> {
    TREE.iter().find(|(listed, _)| *listed == code)
}

/// Each code and the one above it; the topmost have none. `CLINTRL`, a treatment within a trial, is
/// treatment; `CLINTRCH`, research on a trial, is research.
const TREE: [(&str, &str); 59] = [
    ("HMARKT", ""),
    ("HOPERAT", ""),
    ("CAREMGT", "HOPERAT"),
    ("DONAT", "HOPERAT"),
    ("FRAUD", "HOPERAT"),
    ("GOV", "HOPERAT"),
    ("HACCRED", "HOPERAT"),
    ("HCOMPL", "HOPERAT"),
    ("HDECD", "HOPERAT"),
    ("HDIRECT", "HOPERAT"),
    ("HDM", "HOPERAT"),
    ("HLEGAL", "HOPERAT"),
    ("HOUTCOMS", "HOPERAT"),
    ("HPRGRP", "HOPERAT"),
    ("HQUALIMP", "HOPERAT"),
    ("HSYSADMIN", "HOPERAT"),
    ("LABELING", "HSYSADMIN"),
    ("METAMGT", "HSYSADMIN"),
    ("MEMADMIN", "HOPERAT"),
    ("MILCDM", "HOPERAT"),
    ("PATADMIN", "HOPERAT"),
    ("PATSFTY", "HOPERAT"),
    ("PERFMSR", "HOPERAT"),
    ("RECORDMGT", "HOPERAT"),
    ("SYSDEV", "HOPERAT"),
    ("HTEST", "SYSDEV"),
    ("TRAIN", "HOPERAT"),
    ("HPAYMT", ""),
    ("CLMATTCH", "HPAYMT"),
    ("COVAUTH", "HPAYMT"),
    ("COVERAGE", "HPAYMT"),
    ("ELIGDTRM", "COVERAGE"),
    ("ELIGVER", "COVERAGE"),
    ("ENROLLM", "COVERAGE"),
    ("MILDCRG", "COVERAGE"),
    ("REMITADV", "HPAYMT"),
    ("HRESCH", ""),
    ("BIORCH", "HRESCH"),
    ("CLINTRCH", "HRESCH"),
    ("CLINTRCHNPC", "CLINTRCH"),
    ("CLINTRCHPC", "CLINTRCH"),
    ("PRECLINTRCH", "CLINTRCH"),
    ("DSRCH", "HRESCH"),
    ("POARCH", "HRESCH"),
    ("TRANSRCH", "HRESCH"),
    ("PATRQT", ""),
    ("FAMRQT", "PATRQT"),
    ("PWATRNY", "PATRQT"),
    ("SUPNWK", "PATRQT"),
    ("PUBHLTH", ""),
    ("DISASTER", "PUBHLTH"),
    ("THREAT", "PUBHLTH"),
    ("TREAT", ""),
    ("CLINTRL", "TREAT"),
    ("COC", "TREAT"),
    ("ETREAT", "TREAT"),
    ("BTG", "ETREAT"),
    ("ERTREAT", "ETREAT"),
    ("POPHLTH", "TREAT"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn research_covers_trials_but_not_treatment_in_them() {
        assert!(covers("HRESCH", "CLINTRCH"));
        assert!(covers("HRESCH", "CLINTRCHPC"));
        assert!(!covers("HRESCH", "CLINTRL"));
        assert!(covers("TREAT", "CLINTRL"));
        assert!(covers("TREAT", "BTG"));
    }

    #[test]
    fn narrower_purpose_does_not_cover_the_wider() {
        assert!(!covers("CLINTRCH", "HRESCH"));
        assert!(!covers("BTG", "TREAT"));
    }

    #[test]
    fn unknown_code_covers_nothing_and_is_covered_by_nothing() {
        for code in ["", "PurposeOfUse", "treat", "XXXX"] {
            assert_eq!(chain(code), None, "{code}");
            assert!(!covers(code, code), "{code}");
        }
    }

    #[test]
    fn every_code_is_listed_once_below_a_listed_one() {
        for (code, above) in TREE {
            assert_eq!(TREE.iter().filter(|(listed, _)| *listed == code).count(), 1);
            assert!(above.is_empty() || entry(above).is_some(), "{code}");
        }
    }
}
