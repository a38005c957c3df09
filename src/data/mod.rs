//! Data sets in the format of Harvard-FairVLMed.
