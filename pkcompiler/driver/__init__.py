"""What can be done, verb by verb: from what a user types to a graph, a certificate, a report, masks, an artifact.

open       spec, inputs, weights -> a model with its inputs        ``open_model``
certify    -> is the path graph the model?                         ``certificate``
analyse    -> a report, and what analyses measure                  ``analyse``
prune      words -> a plan; a plan, data, a loss -> masks          ``prune``, ``job``, ``prune_to``, ``rehearse``
rescale    -> the same function by other weights                   ``rescale_to``
compare    artifacts -> densities, overlaps, norms                 ``compare``
study      passes x targets x seeds -> one table                   ``study.run_study``
"""
