"""Folders of checkpoints: changed for a test, and prepared to be exported."""

import json

from latentrt_export.export import ExportOptions, prepare_checkpoint


def change(folder, name, **entries):
    """Changes entries of a json file of the folder; None removes one."""
    file = folder / name
    content = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def prepared(folder, **options):
    """The checkpoint, prepared to be exported."""
    return prepare_checkpoint(folder, ExportOptions(**options), lambda line: None)
