"""What follows a call: durable workflows, sweeps, heartbeats, the room queue and webhooks."""
