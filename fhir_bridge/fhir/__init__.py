"""What the bridge knows about FHIR itself: exact JSON, definitions, validation, search values, references.

Nothing here knows institutions, charts or keys. Definitions are compact tables made from HL7's own
packages (``docs/NOTICE-definitions.md``) and loaded when first used; nothing is fetched at run time.
This is the only package that may import ``fhir.resources``, and only as a second opinion
(``docs/decisions/0003-validation.md``).
"""
