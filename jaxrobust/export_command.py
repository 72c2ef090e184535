"""`jaxrobust export`: a trained network as an ONNX file, or the questions of a run for a tool."""

TOOLS = ("label-studio", "cvat")


def main(argv: list[str] | None = None) -> int:
    """With `--to` a tool of `TOOLS`, `export_questions`; else ONNX. Returns the exit code."""
    argv = argv or []
    if any(argument.partition("=")[0] == "--to" for argument in argv):
        from jaxrobust.review_commands import export_questions

        return export_questions(argv)
    from jaxrobust.models import onnx_export

    return onnx_export.main(argv)
