"""The specification's Dict: functions share their configuration and their results."""

import time

import pgstore as modal


def use_new_algorithm():
    return "new"


def use_legacy_algorithm():
    return "legacy"


app = modal.App()
shared_dict = modal.Dict.persist("config-store")

@app.function()
def setup_config():
    # Store configuration data
    shared_dict["database_url"] = "postgresql://..."
    shared_dict["api_keys"] = {"service_a": "key1", "service_b": "key2"}
    shared_dict["feature_flags"] = {"new_feature": True, "beta_mode": False}

@app.function()
def worker_task():
    # Access shared configuration
    db_url = shared_dict["database_url"]
    api_keys = shared_dict.get("api_keys", {})
    
    # Check feature flag
    if shared_dict.get("feature_flags", {}).get("new_feature", False):
        return use_new_algorithm()
    else:
        return use_legacy_algorithm()

@app.function()
def analytics_function():
    # Update metrics
    current_count = shared_dict.get("request_count", 0)
    shared_dict["request_count"] = current_count + 1
    
    # Store processing results
    results = shared_dict.get("daily_results", [])
    results.append({"timestamp": time.time(), "processed": 100})
    shared_dict["daily_results"] = results


if __name__ == "__main__":
    with app.run():
        setup_config.remote()
        print(worker_task.remote())
        analytics_function.remote()
        analytics_function.remote()
        print(shared_dict["request_count"], len(shared_dict["daily_results"]))
