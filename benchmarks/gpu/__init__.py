"""The stages of ``benchmarks/gpu.sh``. Each prints Markdown for docs/benchmarks.md; each runs alone, on a CPU, too."""
