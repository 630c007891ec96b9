"""Plans, stubs and preprocessors; devices only through bluesky's protocols."""
