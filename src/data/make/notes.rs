//! What the physician writes about an eye, in English, Spanish or Portuguese.

use super::eye::{Eye, Notch};
use super::people::Person;
use rand::Rng;
use rand::seq::IndexedRandom;

/// The phrases of one language.
struct Phrases {
    /// Before and after the age.
    patient: (&'static str, &'static str),
    /// Before the pressure, and before the cup-to-disc ratio.
    pressure: &'static str,
    ratio: &'static str,
    intact: &'static str,
    inferior: &'static str,
    superior: &'static str,
    sick: [&'static str; 3],
    healthy: [&'static str; 3],
    /// Before the mean deviation, in the long note alone.
    field: &'static str,
}

const ENGLISH: Phrases = Phrases {
    patient: ("", "-year-old patient"),
    pressure: "IOP",
    ratio: "C/D",
    intact: "rim intact",
    inferior: "inferior rim notch",
    superior: "superior rim notch",
    sick: ["Glaucoma.", "Assessment: primary open-angle glaucoma.", "Findings of glaucoma, drops started."],
    healthy: ["Non-glaucoma.", "Assessment: non-glaucoma, yearly follow-up.", "No sign of glaucoma."],
    field: "Visual field mean deviation",
};

const SPANISH: Phrases = Phrases {
    patient: ("Paciente de ", " años"),
    pressure: "PIO",
    ratio: "E/P",
    intact: "anillo intacto",
    inferior: "muesca inferior del anillo",
    superior: "muesca superior del anillo",
    sick: ["Glaucoma.", "Diagnóstico: glaucoma de ángulo abierto.", "Hallazgos de glaucoma, inicia colirio."],
    healthy: ["Sin glaucoma.", "Diagnóstico: sin glaucoma, control anual.", "Sin signos de glaucoma."],
    field: "Desviación media del campo visual",
};

const PORTUGUESE: Phrases = Phrases {
    patient: ("Paciente de ", " anos"),
    pressure: "PIO",
    ratio: "E/D",
    intact: "rima íntegra",
    inferior: "entalhe inferior da rima",
    superior: "entalhe superior da rima",
    sick: ["Glaucoma.", "Diagnóstico: glaucoma de ângulo aberto.", "Achados de glaucoma, iniciado colírio."],
    healthy: ["Não glaucoma.", "Diagnóstico: sem glaucoma, retorno anual.", "Sem sinais de glaucoma."],
    field: "Desvio médio do campo visual",
};

/// The summary of a note, of at most 180 characters, that names findings and diagnosis; and the longer note itself.
pub(super) fn write(person: &Person, eye: &Eye, rng: &mut impl Rng) -> (String, String) {
    let words = match person.groups[3] {
        1 => SPANISH,
        2 => PORTUGUESE,
        _ => ENGLISH,
    };
    let rim = match eye.notch {
        Some(Notch::Inferior) => words.inferior,
        Some(Notch::Superior) => words.superior,
        None => words.intact,
    };
    let diagnoses = if person.label == 1 { words.sick } else { words.healthy };
    let diagnosis = diagnoses.choose(rng).unwrap_or(&diagnoses[0]);
    let (before, after) = words.patient;
    let findings = format!(
        "{before}{:.0}{after}. {} {:.0} mmHg, {} {:.2}, {rim}.",
        person.age, words.pressure, eye.pressure, words.ratio, eye.cup
    );
    let note = format!("{findings} {} {:.1} dB. {diagnosis}", words.field, eye.deviation);
    (format!("{findings} {diagnosis}"), note)
}
