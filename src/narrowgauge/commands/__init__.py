"""One file a command: its flags in `add_arguments`, what it does in `run(args) -> exit status`, and SUMMARY and
DESCRIPTION, which teach. They are imported for every `--help`, so what needs torch is imported inside `run`.
"""
