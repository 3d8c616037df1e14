"""The command line ``fhir-bridge``: what an operator, an integration engineer or an auditor types."""
