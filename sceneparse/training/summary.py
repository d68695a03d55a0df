"""What a run prints when it has ended."""

from sceneparse.models.costs import count_parameters
from sceneparse.runtime.progress import format_seconds
from sceneparse.training.run import Training


def summary_of(
    training: Training, *, score: str, network: str, pretrained: str | None
) -> dict[str, str]:
    """Describe the best epoch, the model and the time of a run, by heading.

    `score`, `network`: their names. `pretrained`: the weights that training started from.
    """
    position, epochs = training.position, training.last_epoch
    best = "none: no validation had a labelled pixel"
    if position.best >= 0:
        epoch = position.best_step // training.sampler.steps_per_epoch
        best = f"{score} {position.best:.4f} in epoch {epoch} of {epochs} (checkpoint best)"
    start = "from scratch" if pretrained is None else f"pretrained weights: {pretrained}"
    parameters = f"{count_parameters(training.model) / 1e6:.2f} M parameters"
    trained = format_seconds(position.seconds)
    if training.minutes is not None:
        limit = format_seconds(training.seconds_allowed)
        trained += f"; with validations {format_seconds(position.used)} of {limit}"
    return {"best": best, "model": f"{network}, {parameters}, {start}", "trained": trained}
