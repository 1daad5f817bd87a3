"""When are workers told of new requests?"""

from gateway.speculation.worker_use import WorkerUse


def test_a_single_request_is_expected_to_draft_and_many_are_not() -> None:
    use = WorkerUse()
    assert use.pays(1) and not any(use.pays(count) for count in (2, 16, 1000))


def test_what_is_learned_holds_for_batches_of_that_size() -> None:
    use = WorkerUse()
    use.observe(4, 1.0)
    assert use.pays(4) and use.pays(7) and not use.pays(3) and not use.pays(8)


def test_it_follows_slowly() -> None:
    use = WorkerUse()
    use.observe(1, 0.0)
    assert use.pays(1)
    for _ in range(20):
        use.observe(1, 0.0)
    assert not use.pays(1)
    for _ in range(20):
        use.observe(1, 1.0)
    assert use.pays(1)
