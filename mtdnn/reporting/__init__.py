"""Tables, figures and pages, built from the files of the runs that exist."""
