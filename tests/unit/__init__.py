"""Without Postgres: names, serializers, settings, operations on a scripted driver."""
