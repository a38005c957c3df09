//! Accuracy and fairness, as published.
