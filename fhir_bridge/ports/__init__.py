"""Promises in words and types that adapters keep; nothing here does anything."""
