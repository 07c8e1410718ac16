"""Real processes, real calls: every changing call to the C library is a point at which a publish dies, fails, or sleeps.

`shim.c` numbers the calls, `driver.py` is the process under test, `harness.py` the studio and the comparisons; each `test_*.py`
is a way to fail. `mutants.py` holds changes of the engine that these tests must notice.

    pytest tests/faults                  a sample of all points (add -s to see how many)
    FAULTS_SEED=7 pytest tests/faults    another sample
    FAULTS=full pytest tests/faults      every point, with -n 2 to use two cores
"""
