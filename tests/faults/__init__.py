"""Real processes, real calls: every changing call to the C library is a point at which a publish dies, fails, or sleeps.

`shim.c` numbers the calls, `driver.py` is the process under test, `harness.py` the studio and the comparisons; each `test_*.py`
is a way to fail. `mutants.py` holds changes of the engine that these tests must notice.

    pytest -m "slow or not slow" -n 2 tests/faults    a sample of all points; without -n, -s shows how many
    FAULTS_SEED=7 pytest ...                          another sample
    FAULTS=full pytest ...                            every point
"""
