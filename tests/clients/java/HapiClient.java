import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.rest.client.api.IGenericClient;
import ca.uhn.fhir.rest.client.interceptor.BearerTokenAuthInterceptor;
import ca.uhn.fhir.rest.server.exceptions.BaseServerResponseException;
import com.google.gson.Gson;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.hl7.fhir.r4.model.*;

/** What HAPI's generic client does with the service; prints what it saw as one JSON object. */
public class HapiClient {
  static final FhirContext R4 = FhirContext.forR4();
  static final String BASE = System.getenv("FHIR_BASE");
  static final String MRN = "https://northgate.example.org/mrn";
  static final String ABSENT = "b7xk2ohq3v5dcm4nzr6tfy2wqaeuji3l";

  static IGenericClient clientWith(String token) {
    IGenericClient client = R4.newRestfulGenericClient(BASE);
    client.registerInterceptor(new BearerTokenAuthInterceptor(System.getenv(token)));
    return client;
  }

  static List<String> errorOf(Runnable work) {
    try {
      work.run();
      return List.of("none", "");
    } catch (BaseServerResponseException error) {
      OperationOutcome outcome = (OperationOutcome) error.getOperationOutcome();
      String said = outcome == null ? "" : R4.newJsonParser().encodeResourceToString(outcome);
      return List.of(error.getClass().getSimpleName(), error.getStatusCode() + " " + said);
    }
  }

  static Patient patient() {
    Patient patient = new Patient();
    patient.setActive(true).setGender(Enumerations.AdministrativeGender.FEMALE);
    patient.setBirthDateElement(new DateType("1971-02-03"));
    patient.addIdentifier().setSystem(MRN).setValue("hapi");
    return patient;
  }

  static Bundle transaction(String patient) {
    Bundle bundle = new Bundle();
    bundle.setType(Bundle.BundleType.TRANSACTION);
    for (int number = 0; number < 25; number++) {
      Observation observation = new Observation();
      observation.setStatus(Observation.ObservationStatus.FINAL);
      observation.getCode().addCoding().setSystem("http://loinc.org").setCode("8867-4");
      observation.setSubject(new Reference("Patient/" + patient));
      observation.setEffective(new DateTimeType(String.format("2026-01-01T10:%02d:00Z", number)));
      bundle.addEntry().setFullUrl(String.format("urn:uuid:00000000-0000-4000-8000-0000000004%02d", number))
          .setResource(observation).getRequest().setMethod(Bundle.HTTPVerb.POST).setUrl("Observation");
    }
    return bundle;
  }

  static String only(Bundle.BundleEntryComponent entry) {
    return entry.getResource().getIdElement().getIdPart();
  }

  public static void main(String[] arguments) {
    IGenericClient client = clientWith("FHIR_TOKEN");
    Map<String, Object> told = new LinkedHashMap<>();
    String id = client.create().resource(patient()).execute().getId().getIdPart();
    Patient read = client.read().resource(Patient.class).withId(id).execute();
    Bundle found = client.search().forResource(Patient.class)
        .where(Patient.IDENTIFIER.exactly().systemAndIdentifier(MRN, "hapi")).returnBundle(Bundle.class).execute();
    List<String> stored = new ArrayList<>();
    for (Bundle.BundleEntryComponent entry : client.transaction().withBundle(transaction(id)).execute().getEntry()) {
      stored.add(entry.getResponse().getStatus());
    }
    List<String> paged = new ArrayList<>();
    Bundle page = client.search().forResource(Observation.class)
        .where(Observation.PATIENT.hasId(id)).count(10).returnBundle(Bundle.class).execute();
    while (page != null) {
      page.getEntry().forEach(entry -> paged.add(only(entry)));
      page = page.getLink(Bundle.LINK_NEXT) == null ? null : client.loadPage().next(page).execute();
    }
    Parameters count = new Parameters();
    count.addParameter("_count", new IntegerType(100));
    Bundle everything = client.operation().onInstance(new IdType("Patient", id)).named("$everything")
        .withParameters(count).useHttpGet().returnResourceType(Bundle.class).execute();
    List<String> types = new ArrayList<>();
    everything.getEntry().forEach(entry -> types.add(entry.getResource().fhirType()));
    told.put("created", id);
    told.put("read", List.of(read.getGender().toCode(), read.getIdentifierFirstRep().getValue()));
    told.put("found", found.getEntry().stream().map(HapiClient::only).toList());
    told.put("stored", stored);
    told.put("paged", paged);
    told.put("everything", types);
    client.update().resource((Patient) read.setActive(false)).execute();
    told.put("updated", client.read().resource(Patient.class).withId(id).execute().getActive());
    // HAPI itself refuses to send a value that is no date, but not a resource that lacks something.
    Observation invalid = new Observation();
    invalid.setCode(new CodeableConcept().setText("no status")).setSubject(new Reference("Patient/" + id));
    told.put("errors", Map.of(
        "404", errorOf(() -> client.read().resource(Patient.class).withId(ABSENT).execute()),
        "400", errorOf(() -> client.create().resource(invalid).execute()),
        "401", errorOf(() -> clientWith("FHIR_BAD_TOKEN").read().resource(Patient.class).withId(id).execute()),
        "403", errorOf(() -> clientWith("FHIR_NARROW_TOKEN").create().resource(patient()).execute())));
    System.out.println(new Gson().toJson(told));
  }
}
