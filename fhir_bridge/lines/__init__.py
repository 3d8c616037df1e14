"""The order of the rooms and nothing else: ingest, answer, grant."""
