# Snakemake looks for this file; the workflow itself is in workflow/.
include: "workflow/Snakefile"


# An included file's default target is not the includer's.
workflow.default_target = "all"
