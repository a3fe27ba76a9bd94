"""What the tests of anybatch use, for the tests of its users: clocks, fakes, contract suites."""
