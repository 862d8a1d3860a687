"""Where images come from: folders, globs and lists of paths become one sequence of files, each with a stable name."""
