"""
The same app under Ray Serve, on one machine or many: replicas, as many as the load needs.

    serve run chatformer.chat.serving.cluster:build model=runs/faq engine=ctranslate2 max_replicas=8

Each replica has a model and a queue of its own, and takes one core. What its queue has no room for it refuses as
`chatformer serve` does; what the cluster has no room for, Ray refuses with 503.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveInt
from ray import serve
from ray.serve import Application

from chatformer.chat.loading import load_chatbot
from chatformer.configuration.replies import EngineName, ServeSettings

from .server import with_key


class ClusterSettings(BaseModel):
    """What `serve run` takes behind the name of `build`, each as `name=value`."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    model: str
    """Folder of a trained model that every machine reads, or a model's id on the Hub."""
    engine: EngineName = "transformers"
    revision: str | None = None
    model_name: str | None = None
    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 4
    """Replicas come and go between these two with the load."""
    max_batch_size: PositiveInt = 32
    max_waiting: PositiveInt = 256

    def of_a_replica(self) -> ServeSettings:
        own = self.model_dump(exclude={"min_replicas", "max_replicas"})
        return with_key(ServeSettings(**own, num_threads=1))


def build(arguments: ClusterSettings) -> Application:
    """The deployment, for `serve run` and `serve deploy`."""

    def replica() -> Any:
        from .app import create_app

        settings = arguments.of_a_replica()
        return create_app(load_chatbot(settings), settings)

    deployment = serve.deployment(
        name="chatformer",
        ray_actor_options={"num_cpus": 1},
        autoscaling_config={
            "min_replicas": arguments.min_replicas,
            "max_replicas": arguments.max_replicas,
            # A full batch is what a replica computes best.
            "target_ongoing_requests": arguments.max_batch_size,
        },
        max_ongoing_requests=arguments.max_batch_size + arguments.max_waiting,
        max_queued_requests=arguments.max_replicas * arguments.max_waiting,
    )
    return deployment(serve.ingress(replica)()).bind()
