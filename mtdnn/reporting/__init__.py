"""Tables, figures and pages, made from the files of the runs that exist."""
