"""The report of a run: what the template report.html shows of it."""

from fcmae.analysis.collapse_file import read_depth_curves
from fcmae.analysis.evaluation_file import read_evaluation
from fcmae.report_page.charts import (
    depth_chart,
    knn_chart,
    loss_chart,
    rate_charts,
    stage_distance_chart,
    validation_chart,
)
from fcmae.report_page.facts import changed_settings, headline_facts, is_finetuning
from fcmae.report_page.pictures import embed_pictures
from fcmae.report_page.rendering import rendered
from fcmae.report_page.validation import read_validation
from fcmae.runs.reader import RunFolder


def render_report(run: RunFolder) -> str:
    """The complete page. Everything that comes from the run (paths, settings, names) is escaped."""
    loss, rates = loss_chart(run), rate_charts(run)
    stages, depth, knn = stage_distance_chart(run), depth_chart(read_depth_curves(run.path)), knn_chart(run)
    validated, evaluation = validation_chart(run), read_evaluation(run.path)
    charts = [chart for chart in (loss, validated, *rates, stages, depth, knn) if chart is not None]
    return rendered(
        "report.html",
        str(run.path.resolve()),
        charts,
        run=run,
        name=run.path.resolve().name,
        facts=headline_facts(run),
        loss=loss,
        rates=rates,
        is_finetuning=is_finetuning(run),
        validated=validated,
        validation=read_validation(run.path),
        stages=stages,
        depth=depth,
        knn=knn,
        evaluation=evaluation,
        # a fine-tuned run's are seldom measured: no section that only says so
        has_features=not is_finetuning(run) or any((stages, depth, knn, evaluation)),
        pictures=embed_pictures(run.pictures),
        epochs_per_step=run.stream and run.stream.effective_batch / run.stream.samples_per_epoch,
        settings=changed_settings(run),
    )
