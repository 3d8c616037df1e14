"""The story that ``fhir-bridge demo`` tells; it uses the public command line and HTTP, and checks what it says."""
