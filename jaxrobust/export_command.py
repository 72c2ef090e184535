"""`jaxrobust export`: a trained network as ONNX, or a run's images for an annotation tool."""

TOOLS = ("label-studio", "cvat")


def main(argv: list[str] | None = None) -> int:
    """`export_questions` if `--to` is given, else the export to ONNX; returns the exit code."""
    argv = argv or []
    if any(argument.partition("=")[0] == "--to" for argument in argv):
        from jaxrobust.review_commands import export_questions

        return export_questions(argv)
    from jaxrobust.models import onnx_export

    return onnx_export.main(argv)
