"""The server keeps what its own schema promises, whatever is sent."""

import pytest

schemathesis = pytest.importorskip("schemathesis")


@pytest.mark.parametrize("num_examples", [10, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(3000)])])
def test_answers_are_those_of_the_schema(fast_server, num_examples):
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    schema = schemathesis.openapi.from_url(f"{fast_server.url}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert {operation.path for operation in operations} == {
        "/v1/chat/completions",
        "/v1/models",
        "/v1/models/{model}",
        "/health",
        "/metrics",
    }
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(
            max_examples=num_examples,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def check(case):
            # A valid request can still be refused: where it names another model, or its last message is not a user's.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        check()
