"""Every page behind the guard."""

from exeat.plane.people import Role
from exeat.plane.web.approve_page import approve_now, approving
from exeat.plane.web.denials_page import denied
from exeat.plane.web.guarding import Page
from exeat.plane.web.nodes_page import activate_now, node_detail, node_list, retire_now
from exeat.plane.web.policies_page import policy_detail, policy_list, policy_text
from exeat.plane.web.policy_changes import policy_diff, roll_back_now, rolling_back
from exeat.plane.web.report_page import report
from exeat.plane.web.rollouts_page import rollout_list, step_now
from exeat.plane.web.verdicts_page import verdict_list
from exeat.plane.web.verdicts_stream import verdict_stream
from exeat.plane.web.workloads_page import allow_now, set_mode_now, workload_detail, workload_list

PAGES = (
    Page("/nodes", node_list),
    Page("/nodes/{name}", node_detail),
    Page("/nodes/{name}/retire", retire_now, is_change=True, needs=Role.ADMIN),
    Page("/nodes/{name}/activate", activate_now, is_change=True, needs=Role.ADMIN),
    Page("/workloads", workload_list),
    Page("/workloads/one", workload_detail),
    Page("/workloads/mode", set_mode_now, is_change=True, needs=Role.APPROVER),
    Page("/workloads/allow", allow_now, is_change=True, needs=Role.APPROVER),
    Page("/verdicts", verdict_list),
    Page("/verdicts/stream", verdict_stream),
    Page("/denials", denied),
    Page("/denials/approve", approving, needs=Role.APPROVER),
    Page("/denials/approve", approve_now, is_change=True, needs=Role.APPROVER),
    Page("/policies", policy_list),
    Page("/policies/{name}", policy_detail),
    Page("/policies/{name}/text", policy_text),
    Page("/policies/{name}/diff", policy_diff),
    Page("/policies/{name}/rollback", rolling_back, needs=Role.ADMIN),
    Page("/policies/{name}/rollback", roll_back_now, is_change=True, needs=Role.ADMIN),
    Page("/rollouts", rollout_list),
    Page("/rollouts/{number:int}/{step}", step_now, is_change=True, needs=Role.ADMIN),
    Page("/report", report),
)
