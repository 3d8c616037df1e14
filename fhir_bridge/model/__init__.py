"""Values that walk through the rooms; each stage of a record is a type of its own."""
