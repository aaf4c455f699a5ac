#include "daemon/metrics/prometheus_text.h"

#include <cstdint>
#include <limits>
#include <sstream>
#include <utility>

#include <kj/encoding.h>
#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

namespace kvant::daemon {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

/// Names are whatever bytes a client chose; Prometheus drops a whole answer over one label that is not UTF-8.
std::string LabelOf(const std::string& name) {
  const auto utf16 = kj::encodeUtf16(kj::arrayPtr(name.data(), name.size()));
  const auto utf8 = kj::decodeUtf16(utf16);  // what was not UTF-8 is U+FFFD
  return {utf8.begin(), utf8.size()};
}

MetricFamily FamilyOf(const std::string& prefix, const FigureInfo& info) {
  const bool counter = info.kind == FigureKind::kCounter;
  return {.name = prefix + std::string(info.name) + (counter ? "_total" : ""),
          .help = std::string(info.help),
          .type = counter ? MetricType::Counter : MetricType::Gauge,
          .metric = {}};
}

void AddValue(MetricFamily& to, std::uint64_t value, std::vector<ClientMetric::Label> labels = {}) {
  ClientMetric metric;
  metric.label = std::move(labels);
  (to.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = static_cast<double>(value);
  to.metric.push_back(std::move(metric));
}

template <typename Group, std::size_t n>
void AddGroup(std::vector<MetricFamily>& to, const Group& group, const std::array<Figure<Group>, n>& rows) {
  for (const Figure<Group>& row : rows) AddValue(to.emplace_back(FamilyOf("kvant_", row.info)), group.*row.value);
}

template <typename Group, std::size_t n>
void AddGroup(std::vector<MetricFamily>& to, const Group& group, const FigureFamily& family,
              const std::array<Figure<Group>, n>& rows) {
  MetricFamily& metrics = to.emplace_back(
      FamilyOf("kvant_", {.name = family.name, .kind = FigureKind::kCounter, .unit = FigureUnit::kCount, .help = family.help}));
  for (const Figure<Group>& row : rows) {
    AddValue(metrics, group.*row.value, {{.name = std::string(family.label), .value = std::string(row.info.name)}});
  }
}

template <typename Group, std::size_t n>
void AddHistograms(std::vector<MetricFamily>& to, const Group& group, const std::array<HistogramRow<Group>, n>& rows) {
  for (const HistogramRow<Group>& row : rows) {
    const TimeHistogram& from = group.*row.value;
    ClientMetric metric;
    for (std::size_t i = 0; i < from.counts.size(); ++i) {
      metric.histogram.sample_count += from.counts[i];
      metric.histogram.bucket.push_back({.cumulative_count = metric.histogram.sample_count,
                                         .upper_bound = i < TimeHistogram::kBounds.size()
                                                            ? static_cast<double>(TimeHistogram::kBounds[i])
                                                            : std::numeric_limits<double>::infinity()});
    }
    metric.histogram.sample_sum = static_cast<double>(from.sum_ms) / 1000.0;
    to.push_back({.name = "kvant_" + std::string(row.name),
                  .help = std::string(row.help),
                  .type = MetricType::Histogram,
                  .metric = {std::move(metric)}});
  }
}

template <typename Group, std::size_t n, typename GroupOf>
void AddStores(std::vector<MetricFamily>& to, const std::vector<NamedStoreFigures>& stores,
               const std::array<Figure<Group>, n>& rows, GroupOf group_of) {
  for (const Figure<Group>& row : rows) {
    MetricFamily family = FamilyOf("kvant_per_store_", row.info);
    for (const NamedStoreFigures& store : stores) {
      AddValue(family, group_of(store).*row.value, {{.name = "store", .value = LabelOf(store.name)}});
    }
    to.push_back(std::move(family));
  }
}

}  // namespace

std::string PrometheusText(const ServiceFigures& figures, const std::vector<NamedStoreFigures>& stores,
                           const std::string& version) {
  std::vector<MetricFamily> families;
  MetricFamily build{
      .name = "kvant_build_info", .help = "1; the label says which version", .type = MetricType::Gauge, .metric = {}};
  AddValue(build, 1, {{.name = "version", .value = version}});
  families.push_back(std::move(build));
  AddGroup(families, figures.gauges, kServiceGauges);
  AddGroup<StoreGauges>(families, figures.stores, kStoreGauges);
  AddGroup(families, figures.stores.counters, kCounters);
  AddGroup(families, figures.counters, kServiceCounters);
  AddGroup(families, figures.refusals, kRefusalFamily, kRefusals);
  AddGroup(families, figures.room_refusals, kRoomRefusalFamily, kRoomRefusals);
  AddGroup(families, figures.lookup_ends, kLookupEndFamily, kLookupEnds);
  AddHistograms(families, figures.times, kBlockTimes);
  if (!stores.empty()) {
    AddStores(families, stores, kStoreGauges,
              [](const NamedStoreFigures& store) -> const StoreGauges& { return store.figures; });
    AddStores(families, stores, kCounters,
              [](const NamedStoreFigures& store) -> const Counters& { return store.figures.counters; });
  }
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, families);
  return text.str();
}

}  // namespace kvant::daemon
