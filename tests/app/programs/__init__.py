"""Programs as people write them for Modal; `tests.app.test_programs` runs each."""
