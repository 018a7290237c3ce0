"""
How it is kept: the folder of a model, where all rooms meet.

In reading order, each file imports only those above it:

    names         every file of a model's folder: its name, who writes it, whether it travels
    explaining    errors of other libraries as a sentence that says what to do
    reading       texts, structures and JSON lines, or what is wrong with the file
    writing       files and folders, complete or not at all
    keeping       what a command reads is never overwritten
    model_folder  a stranger's model: data only, each claim checked
    run_folder    what a training recorded
    printing      texts of users on a terminal of any encoding
    bars          the progress of long work, in a terminal or a log file
    environment   the versions that a run and its figures depend on
"""
