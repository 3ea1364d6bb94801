"""How each tiny model is trained: `python -m studylib.recipes.<name> --minutes 30`."""
