"""What users write: an application, its handlers and what they may ask for."""
