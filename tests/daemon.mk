# Tests of the daemon, the API and the command line.
