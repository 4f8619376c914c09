"""Small runs of `python -m tests.chaos` and its kin."""

from __future__ import annotations

import io
from pathlib import Path

import psycopg
import pytest

import pgstore
from tests.chaos import drills, faults, report
from tests.chaos.failovers import fail_over
from tests.chaos.run import Plan, Run
from tests.chaos.terminations import Terminations, plan_for
from tests.fixtures.proxy import Proxy
from tests.fixtures.replication import Pair

SEED = 20  # of the faults; what the workers are at when one strikes is left to chance


def tamper(url):
    """Do to each store what no fault may ever do."""
    with psycopg.connect(url, autocommit=True) as connection, pgstore.Client(url) as client:
        pgstore.Dict.from_name("counters", client=client).increment("c0", 1_000_000)
        pgstore.Dict.from_name("compare-and-set", client=client).put("chain0", "nobody's")
        for table in ("chaos_taken", "chaos_done", "chaos_moved"):
            connection.execute(f"INSERT INTO {table} SELECT item FROM {table} LIMIT 1")
        for kind, store_class in (("volume", pgstore.Volume), ("nfs", pgstore.NetworkFileSystem)):
            writes = store_class.from_name(f"{kind}-writes", client=client)
            path = next(entry.path for entry in writes.listdir("/", recursive=True) if entry.path.count("/") == 1)
            writes.put_file(io.BytesIO(b"".join(writes.read_file(path))[:-1]), path)
            renames = store_class.from_name(f"{kind}-renames", client=client)
            for entry in renames.listdir("/", recursive=True):
                if entry.path != "there":
                    renames.remove_file(entry.path)
        appends = pgstore.NetworkFileSystem.from_name("nfs-appends", client=client)
        for entry in appends.listdir("/"):
            appends.put_file(io.BytesIO(b""), entry.path)


def explain(result):
    return "\n".join(report.lines(result))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_whatever_goes_wrong_what_workers_were_told_is_true(own_server, tmp_path):
    """
    All stores and all faults at once: nothing lost, nothing doubled where that is promised, and nothing hangs.
    """
    with Proxy(own_server.port) as proxy:
        plan = Plan(tmp_path, SEED, seconds=15.0, workers=4, faults_per_second=4.0)
        result = Run(plan, own_server, proxy).run()

    assert result.is_good, explain(result)
    assert sum(result.struck.values()) > 20, explain(result)
    assert all(result.log.outcomes(drill.name)["ok"] for drill in drills.ALL), explain(result)


def test_the_audit_finds_what_was_changed_behind_the_workers(own_server, tmp_path):
    """
    Or that it finds nothing would mean nothing.
    """
    found = {"counters", "compare-and-set", "items", "jobs", "moves", "nfs appends"}
    found |= {f"{kind} {drill}" for kind in ("volume", "nfs") for drill in ("writes", "renames")}
    with Proxy(own_server.port) as proxy:
        run = Run(Plan(tmp_path, SEED, seconds=3.0, workers=4, faults=()), own_server, proxy)
        result = run.run()
        assert result.is_good, explain(result)

        tamper(run.url)
        assert found == {name for name, violations in run.audit(result.log).items() if violations}


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_backends_that_are_terminated_lose_nothing_and_double_nothing(own_server, tmp_path):
    """
    And what they had not answered is sent again: no more is unknown than what was answered before its commit.
    """
    plan = plan_for(tmp_path, SEED, rate=100.0)
    with Proxy(own_server.port) as proxy:
        result = Terminations(plan, own_server, proxy, 500).run()

    assert result.is_good, explain(result)
    assert result.struck[faults.Terminate.name] >= 500
    unknown = [str(entry) for entry in result.log.entries if entry.outcome == "unknown"]
    assert len(unknown) <= 10
    assert not [each for each in unknown if "unexpectedly" in each]  # the server has said something


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_synchronous_standby_that_takes_over_has_all_that_was_acknowledged(pytestconfig, tmp_path):
    """
    Three times under load. Workers name both servers in their URL, and go on by themselves.
    """
    chosen = pytestconfig.getoption("--postgres-bin")
    with Pair(Path(chosen) if chosen else None) as pair:
        result = fail_over(pair, tmp_path, 3, SEED)

    assert result.is_good, explain(result)
    assert result.struck["primaries killed"] == 3
