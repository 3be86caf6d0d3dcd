"""Names of anatomical structures: aliases, translations and SNOMED CT codes, matched to known prompts."""
