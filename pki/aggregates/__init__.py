"""The trust service's aggregates (`eventsourcing`): what was decided, as events with frozen names. No I/O here."""
