//! What the words mean.

use crate::report::page::Section;
use maud::html;

const TERMS: [(&str, &str); 11] = [
    (
        "AUC",
        "The chance that of two images, one with glaucoma and one without, the one with it has the higher probability. 1 is perfect, 0.5 is a coin.",
    ),
    (
        "ROC curve",
        "What every possible threshold gives: those with glaucoma who are found, against those without who are called positive. AUC is the area below it.",
    ),
    ("Sensitivity", "Of those with glaucoma, the share called positive: the true positive rate."),
    ("False alarms", "Of those without glaucoma, the share called positive: the false positive rate; one less the specificity."),
    (
        "ES-AUC",
        "Equity-scaled AUC: AUC divided by 1 plus the sum of each group’s distance from it. It equals the AUC where all groups are alike.",
    ),
    (
        "DPD",
        "Demographic parity difference: the largest less the smallest share of a group called positive. It is not 0 where glaucoma itself is more common in one group.",
    ),
    ("Equal opportunity difference", "The largest less the smallest sensitivity of the groups."),
    ("EOD", "Equalised odds difference: the larger of the gaps in sensitivity and in false alarms."),
    (
        "Calibration error",
        "How far probabilities are from what they claim: over bins of equal size, the mean distance of the share with glaucoma from the mean probability.",
    ),
    ("Brier score", "The mean square of the probability less the truth (1 or 0). 0 is perfect; always saying 0.5 gives 0.25."),
    ("Dispersion", "How much a gate’s weight for an expert varies from one patch, word or image to another: its variance."),
];

pub(super) fn section() -> Section {
    let body = html! { dl class="terms" { @for (term, meaning) in TERMS { div { dt { (term) } dd { (meaning) } } } } };
    Section { id: "terms", title: "What the words mean", body }
}
