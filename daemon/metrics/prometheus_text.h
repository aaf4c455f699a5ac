// The daemon's figures as Prometheus reads them.
#pragma once

#include <string>
#include <vector>

#include "daemon/serve/service_figures.h"

namespace kvant::daemon {

/// The text format, version 0.0.4. Every row of the tables of figures is a metric `kvant_<name>` of the whole daemon, and every
/// one of a store's besides `kvant_per_store_<name>{store="..."}`; counters end in `_total`. `version` is a label of
/// `kvant_build_info`. Any thread.
std::string PrometheusText(const ServiceFigures& figures, const std::vector<NamedStoreFigures>& stores,
                           const std::string& version);

}  // namespace kvant::daemon
